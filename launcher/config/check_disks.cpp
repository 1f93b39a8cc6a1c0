#include <algorithm>
#include <set>

#include "launcher/config/checks.hpp"

namespace vmlaunch::launcher::config {

namespace {

void cdrom(const Config::Disk& given, const std::string& pointer, Review& review) {
  if (given.format == DiskFormat::qcow2) {
    review.report(pointer + "/format", "a CD-ROM is \"raw\"");
  }
  if (given.readonly == false) {
    review.report(pointer + "/readonly", "a CD-ROM is read only");
  }
  if (given.bus == DiskBus::virtio_blk) {
    review.report(pointer + "/bus", "a CD-ROM is on \"sata\" or \"virtio-scsi\"");
  }
}

/// The images beneath a disk: none is guessed, neither where it is nor what.
void backing(const Config::Disk& given,
             VmSpec::Disk& disk,
             const std::string& pointer,
             Review& review) {
  if (!given.backing.empty() && given.format != DiskFormat::qcow2) {
    review.report(pointer, "only a \"qcow2\" image has others beneath it");
  }
  if (given.backing.size() > kMostImages) {
    review.report(pointer,
                  "at most " + std::to_string(kMostImages) + " images are possible beneath one");
  }
  std::set<std::string> seen = {disk.path};
  for (std::size_t i = 0; i < given.backing.size(); ++i) {
    const std::string place = child(pointer, i);
    VmSpec::Image image;
    if (given.backing[i].path) {
      image.path = review.path(place + "/path", *given.backing[i].path);
    } else {
      review.report(place + "/path", "missing: the image beneath");
    }
    if (!given.backing[i].format) {
      review.report(place + "/format", "missing: \"raw\" or \"qcow2\" (it is never guessed)");
    }
    image.format = given.backing[i].format.value_or(DiskFormat::raw);
    if (given.backing[i].format == DiskFormat::raw && i + 1 < given.backing.size()) {
      review.report(place + "/format", "a \"raw\" image is the last: none is beneath it");
    }
    if (!image.path.empty() && !seen.insert(image.path).second) {
      review.report(place + "/path", "this image is listed twice");
    }
    disk.backing.push_back(image);
  }
}

void disk_options(const VmSpec::Disk& disk, const std::string& pointer, Review& review) {
  if (disk.aio == DiskAio::native && disk.cache != DiskCache::none) {
    review.report_without(
        pointer + "/cache",
        pointer + "/aio",
        "\"native\" needs \"cache\": \"none\": it works only past the host's page cache");
  }
  if (disk.iothread && disk.bus == DiskBus::sata) {
    review.report_without(
        pointer + "/bus",
        pointer + "/iothread",
        "\"sata\" has no thread of its own: only \"virtio-blk\" and \"virtio-scsi\" do");
  }
}

void sata(const VmSpec& spec, Review& review) {
  const auto count =
      std::count_if(spec.disks.begin(), spec.disks.end(), [](const VmSpec::Disk& disk) {
        return disk.bus == DiskBus::sata;
      });
  if (count > 0 && spec.machine != Machine::q35) {
    review.report("/disks",
                  "\"sata\", which is also a CD-ROM's default, needs \"machine\": \"q35\"");
  }
  if (count > static_cast<std::ptrdiff_t>(kMostSataDisks)) {
    review.report("/disks",
                  "at most " + std::to_string(kMostSataDisks) + " disks are possible on \"sata\"");
  }
}

}  // namespace

void check_disks(const Config& config, VmSpec& spec, Review& review) {
  if (config.disks.size() > kMostDisks) {
    review.report("/disks", "at most " + std::to_string(kMostDisks) + " disks are possible");
  }
  std::set<std::string> seen;
  for (std::size_t i = 0; i < config.disks.size(); ++i) {
    const Config::Disk& given = config.disks[i];
    const std::string pointer = child("/disks", i);
    VmSpec::Disk disk;
    if (given.path) {
      disk.path = review.path(pointer + "/path", *given.path);
    } else {
      review.report(pointer + "/path", "missing: the image or block device");
    }
    const bool is_cdrom = given.type == DiskType::cdrom;
    if (!given.format && !is_cdrom) {
      review.report_without(
          pointer + "/type",
          pointer + "/format",
          "missing: \"raw\" or \"qcow2\" (it is never guessed: a guest could write a header)");
    }
    disk.format = given.format.value_or(disk.format);
    disk.type = given.type.value_or(disk.type);
    disk.readonly = given.readonly.value_or(is_cdrom);
    disk.bus = given.bus.value_or(is_cdrom ? DiskBus::sata : disk.bus);
    disk.cache = given.cache.value_or(disk.cache);
    disk.aio = given.aio.value_or(disk.aio);
    disk.iothread = given.iothread.value_or(disk.bus != DiskBus::sata);
    disk.serial = given.serial;
    backing(given, disk, pointer + "/backing", review);
    if (is_cdrom) {
      cdrom(given, pointer, review);
    }
    disk_options(disk, pointer, review);
    if (given.path && !given.path->empty() && !seen.insert(disk.path).second) {
      review.report(pointer + "/path", "this disk is listed twice");
    }
    spec.disks.push_back(disk);
  }
  sata(spec, review);
}

}  // namespace vmlaunch::launcher::config
