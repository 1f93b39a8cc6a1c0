#include <algorithm>
#include <cstddef>
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
void choose_aio(Arguments& args,
                const VmSpec::Disk& disk,
                const std::string& purpose,
                Json& protocol) {
  if (disk.aio == config::DiskAio::threads) {
    return;  // QEMU's own choice
  }
  protocol["aio"] = to_string(disk.aio);
  if (disk.aio == config::DiskAio::native) {
    args.need_calls("disk-native");
    return;
  }
  args.need_calls("disk-io-uring");
  if (args.spec.sandbox != config::Sandbox::off) {
    args.plan.warnings.push_back(purpose +
                                 "'s io_uring weakens the sandbox: what QEMU asks of the kernel by "
                                 "it is neither watched nor refused; \"native\" is");
  }
}

/// The host's side of a disk.
void image(Arguments& args, const VmSpec::Disk& disk, const std::string& id, std::size_t index) {
  FileUse file{"disk " + std::to_string(index),
               disk.path,
               disk.readonly ? FileUse::Access::read : FileUse::Access::read_write};
  file.is_qcow2 = disk.format == config::DiskFormat::qcow2;
  file.direct = disk.cache == config::DiskCache::none;
  if (args.survey.qcow2_heads.contains(disk.path)) {
    args.plan.warnings.push_back(
        file.purpose + ", " + base::printable(disk.path) +
        ", is \"raw\" and begins like a qcow2 image: either its \"format\" is \"qcow2\", or the "
        "guest has written that; type: qemu-img info " +
        base::shell_quote(disk.path));
  }
  const bool is_block = args.survey.block_devices.contains(disk.path);
  Json protocol = {{"driver", is_block ? "host_device" : "file"},
                   {"filename", args.fdset(file)},
                   {"node-name", id + "-file"},
                   {"read-only", disk.readonly},
                   {"discard", "unmap"}};
  if (is_block) {
    args.need_calls("block-device");
  }
  choose_aio(args, disk, file.purpose, protocol);
  Json format = {{"driver", to_string(disk.format)},
                 {"file", id + "-file"},
                 {"node-name", id},
                 {"read-only", disk.readonly},
                 {"discard", "unmap"}};
  if (file.is_qcow2) {
    format["backing"] = nullptr;  // a guest's own header must not name further files
  }
  for (Json* node : {&protocol, &format}) {  // none takes it from another
    if (file.direct) {
      (*node)["cache"] = {{"direct", true}};
    } else if (disk.cache == config::DiskCache::unsafe) {
      (*node)["cache"] = {{"no-flush", true}};
    }
    args.add_json("-blockdev", *node);
  }
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
  image(args, disk, id, index);
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
