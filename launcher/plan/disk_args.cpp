#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "base/text.hpp"
#include "launcher/plan/arguments.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using config::VmSpec;

bool is_scsi(const VmSpec::Disk& disk) {
  return disk.bus == config::DiskBus::virtio_scsi;
}

std::string iothread(Arguments& args, const std::string& owner) {
  args.tell("a thread of QEMU's own for " + owner + ", with a queue for each vCPU",
            R"("iothread": false)");
  std::string id = "iothread-" + owner;
  args.add_json("-object", Json{{"qom-type", "iothread"}, {"id", id}});
  return id;
}

/// One for all, in the slot of its first disk, which needs none itself. QEMU runs a controller
/// and all its disks in one thread.
void scsi_controller(Arguments& args) {
  const auto first = std::find_if(args.spec.disks.begin(), args.spec.disks.end(), is_scsi);
  if (first == args.spec.disks.end()) {
    return;
  }
  const auto index = static_cast<std::size_t>(first - args.spec.disks.begin());
  const bool wants_thread = std::any_of(first, args.spec.disks.end(), [](const VmSpec::Disk& disk) {
    return is_scsi(disk) && disk.iothread;
  });
  Json controller = args.device("virtio-scsi-pci", "scsi", kFirstDiskSlot + index);
  if (wants_thread) {
    controller["iothread"] = iothread(args, "scsi");
  }
  args.add_json("-device", controller);
}

/// How QEMU waits for the host.
void choose_aio(Arguments& args, const VmSpec::Disk& disk, Json& protocol) {
  if (disk.aio != config::DiskAio::threads) {  // QEMU's own choice
    protocol["aio"] = to_string(disk.aio);
    args.need_calls(disk.aio == config::DiskAio::native ? "disk-native" : "disk-io-uring");
  }
}

void warn_of_io_uring(Arguments& args, const VmSpec::Disk& disk, const std::string& purpose) {
  if (disk.aio == config::DiskAio::io_uring && args.spec.sandbox != config::Sandbox::off) {
    args.plan.warnings.push_back(purpose +
                                 "'s io_uring weakens the sandbox: what QEMU asks of the kernel by "
                                 "it is neither watched nor refused; \"native\" is");
  }
}

/// Past the page cache, or without flushes: none of the nodes takes it from another.
void choose_cache(const VmSpec::Disk& disk, Json& node) {
  if (disk.cache == config::DiskCache::none) {
    node["cache"] = {{"direct", true}};
  } else if (disk.cache == config::DiskCache::unsafe) {
    node["cache"] = {{"no-flush", true}};
  }
}

void warn_of_header(Arguments& args, const FileUse& file) {
  if (args.survey.qcow2_heads.contains(file.path)) {
    args.plan.warnings.push_back(
        file.purpose + ", " + base::printable(file.path) +
        ", is \"raw\" and begins like a qcow2 image: either its \"format\" is \"qcow2\", or the "
        "guest has written that; type: qemu-img info " +
        base::shell_quote(file.path));
  }
}

/// One image of a disk as the nodes `id` and `id`-file, over the node `beneath`.
void image(Arguments& args,
           const VmSpec::Disk& disk,
           FileUse file,
           const std::string& id,
           const std::optional<std::string>& beneath) {
  warn_of_header(args, file);
  const bool is_block = args.survey.block_devices.contains(file.path);
  const bool readonly = file.access == FileUse::Access::read;
  file.direct = disk.cache == config::DiskCache::none;
  Json protocol = {{"driver", is_block ? "host_device" : "file"},
                   {"filename", args.fdset(file)},
                   {"node-name", id + "-file"},
                   {"read-only", readonly},
                   {"discard", "unmap"}};
  if (is_block) {
    args.need_calls("block-device");
  }
  choose_aio(args, disk, protocol);
  Json format = {{"driver", file.is_qcow2 ? "qcow2" : "raw"},
                 {"file", id + "-file"},
                 {"node-name", id},
                 {"read-only", readonly},
                 {"discard", "unmap"}};
  if (file.is_qcow2) {
    // A guest's own header must not name files: QEMU is told which one it is.
    format["backing"] = beneath ? Json(*beneath) : Json(nullptr);
  }
  for (Json* node : {&protocol, &format}) {
    choose_cache(disk, *node);
    args.add_json("-blockdev", *node);
  }
}

FileUse file_of(const VmSpec::Image& image, const std::string& purpose, bool readonly) {
  FileUse file{purpose, image.path, readonly ? FileUse::Access::read : FileUse::Access::read_write};
  file.is_qcow2 = image.format == config::DiskFormat::qcow2;
  return file;
}

/// The host's side of a disk: from the last image beneath it to its own.
void images(Arguments& args, const VmSpec::Disk& disk, const std::string& id, std::size_t index) {
  const std::string purpose = "disk " + std::to_string(index);
  warn_of_io_uring(args, disk, purpose);
  std::optional<std::string> beneath;
  std::optional<std::string> path;
  for (std::size_t i = disk.backing.size(); i-- > 0;) {
    FileUse file =
        file_of(disk.backing[i], "image " + std::to_string(i + 1) + " beneath " + purpose, true);
    file.backing = path;
    const std::string node = id + "-backing" + std::to_string(i + 1);
    image(args, disk, file, node, beneath);
    beneath = node;
    path = disk.backing[i].path;
  }
  FileUse file = file_of(disk, purpose, disk.readonly);
  file.backing = path;
  image(args, disk, file, id, beneath);
}

/// One disk on each, in their order.
std::ptrdiff_t sata_port(const std::vector<VmSpec::Disk>& disks, std::size_t index) {
  const auto end = disks.begin() + static_cast<std::ptrdiff_t>(index);
  return std::count_if(disks.begin(), end, [](const VmSpec::Disk& disk) {
    return disk.bus == config::DiskBus::sata;
  });
}

/// The guest's side of it.
Json drive(Arguments& args, const VmSpec::Disk& disk, const std::string& id, std::size_t index) {
  const bool is_cdrom = disk.type == config::DiskType::cdrom;
  const std::string name = id + "-device";
  switch (disk.bus) {
    case config::DiskBus::virtio_blk:
      break;
    case config::DiskBus::virtio_scsi:
      return {{"driver", is_cdrom ? "scsi-cd" : "scsi-hd"},
              {"id", name},
              {"bus", "scsi.0"},
              {"scsi-id", index}};
    case config::DiskBus::sata:
      return {{"driver", is_cdrom ? "ide-cd" : "ide-hd"},
              {"id", name},
              {"bus", "ide." + std::to_string(sata_port(args.spec.disks, index))}};
  }
  Json front = args.device("virtio-blk-pci", name, kFirstDiskSlot + index);
  if (disk.iothread) {
    front["iothread"] = iothread(args, id);
  }
  return front;
}

void disk(Arguments& args, const VmSpec::Disk& disk, const std::string& id, std::size_t index) {
  images(args, disk, id, index);
  Json front = drive(args, disk, id, index);
  front["drive"] = id;
  front["bootindex"] = index + 1;  // 0 is the loader's that -kernel brings along
  if (disk.cache == config::DiskCache::writethrough) {
    front["write-cache"] = "off";
  }
  if (disk.serial) {
    front["serial"] = *disk.serial;
  }
  args.add_json("-device", front);
}

}  // namespace

void add_disks(Arguments& args) {
  scsi_controller(args);
  for (std::size_t i = 0; i < args.spec.disks.size(); ++i) {
    disk(args, args.spec.disks[i], "disk" + std::to_string(i), i);
  }
}

}  // namespace vmlaunch::launcher::plan
