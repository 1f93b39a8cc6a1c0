#include "launcher/survey/record.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/survey/host.hpp"

namespace vmlaunch::launcher::survey {

namespace {

using base::Tree;

constexpr const char* kDevices = "/sys/bus/pci/devices";
constexpr const char* kGroups = "/sys/kernel/iommu_groups";

/// Only whether they are there counts.
constexpr std::array kFolders = {
    "/sys/bus/pci/drivers/vfio-pci",
    kDevices,
    kGroups,
};

constexpr std::array kAttributes = {
    "vendor",           "device",           "class",
    "revision",         "reset_method",     "boot_vga",
    "numa_node",        "resource",         "resource0_resize",
    "resource1_resize", "resource2_resize", "resource3_resize",
    "resource4_resize", "resource5_resize", "sriov_totalvfs",
    "sriov_numvfs",     "d3cold_allowed",   "driver_override",
    "power/control",
};

constexpr std::array kGroupAttributes = {"type", "name"};

class Recorder {
 public:
  explicit Recorder(const Tree& tree) : tree_(tree) {}

  Record take() {
    Reader reader(tree_);
    Host host = look_at_host(reader);
    for (const char* folder : kFolders) {
      if (tree_.exists(folder)) {
        entries_.push_back({Entry::Kind::folder, folder, "", 0755});
      }
    }
    add_presence("/dev/kvm");
    for (const auto& [code, vars] : kUefiBuilds) {
      add_presence(code);
      add_presence(vars);
    }
    for (const auto& [path, content] : reader.kept()) {
      add_kept(path, content);
    }
    for (const std::string& group : tree_.list(kGroups)) {
      add_group(std::string(kGroups) + "/" + group);
    }
    for (const PciFunction& function : host.pci.functions) {
      add_function(function);
    }
    for (const UsbBus& bus : host.usb.buses) {
      add_usb(bus);
    }
    return {std::move(entries_), functions_, std::move(host.unseen)};
  }

 private:
  void add_presence(const std::string& path) {
    if (const auto file = tree_.status(path)) {
      entries_.push_back({Entry::Kind::file, path, "", file->st_mode & 0777U});
    }
  }

  void add_attribute(const std::string& path) {
    if (const auto text = tree_.read(path)) {
      add_kept(path, text);
    }
  }

  void add_link(const std::string& path, const std::string& target) {
    const std::filesystem::path folder = std::filesystem::path(path).parent_path();
    entries_.push_back(
        {Entry::Kind::link, path, std::filesystem::path(target).lexically_relative(folder)});
  }

  void add_kept(const std::string& path, const std::optional<std::string>& content) {
    if (content) {
      entries_.push_back({Entry::Kind::file, path, content->empty() ? "" : *content + "\n"});
    } else {
      entries_.push_back({Entry::Kind::folder, path, "", 0755});
    }
  }

  void add_group(const std::string& group) {
    entries_.push_back({Entry::Kind::folder, group + "/devices", "", 0755});
    for (const char* attribute : kGroupAttributes) {
      add_attribute(group + "/" + attribute);
    }
  }

  void add_function(const PciFunction& function) {
    const std::string name = to_string(function.address);
    const std::string link = std::string(kDevices) + "/" + name;
    const std::optional<std::string> folder = tree_.resolve(link);
    if (!folder) {
      return;  // gone since
    }
    ++functions_;
    add_link(link, *folder);
    entries_.push_back({Entry::Kind::folder, *folder, "", 0755});
    for (const char* attribute : kAttributes) {
      add_attribute(*folder + "/" + attribute);
    }
    if (function.driver) {
      const std::string driver = "/sys/bus/pci/drivers/" + *function.driver;
      entries_.push_back({Entry::Kind::folder, driver, "", 0755});
      add_link(*folder + "/driver", driver);
    }
    if (const auto group = tree_.resolve(*folder + "/iommu_group")) {
      add_link(*folder + "/iommu_group", *group);
      add_link(*group + "/devices/" + name, *folder);
    }
    // Of a virtual function: the one that it is a part of.
    if (const auto physical = tree_.resolve(*folder + "/physfn")) {
      add_link(*folder + "/physfn", *physical);
    }
  }

  /// What the reader kept of them is in their own folders.
  void add_usb(const UsbBus& bus) {
    add_usb_link("usb" + std::to_string(bus.number));
    for (const UsbDevice& device : bus.devices) {
      const std::string folder = add_usb_link(device.name());
      for (const UsbInterface& interface : device.interfaces) {
        if (!folder.empty() && !interface.driver.empty()) {
          const std::string driver = "/sys/bus/usb/drivers/" + interface.driver;
          entries_.push_back({Entry::Kind::folder, driver, "", 0755});
          add_link(base::join({folder, interface.name, "driver"}, "/"), driver);
        }
      }
    }
  }

  /// The folder that it leads to; "" for one that is gone since.
  std::string add_usb_link(const std::string& name) {
    const std::string link = kUsbDevices + name;
    const std::optional<std::string> folder = tree_.resolve(link);
    if (folder) {
      add_link(link, *folder);
    }
    return folder.value_or("");
  }

  const Tree& tree_;
  std::vector<Entry> entries_;
  std::size_t functions_ = 0;
};

[[noreturn]] void refuse(const std::string& folder, const std::string& cause) {
  throw Failure(ExitCode::preflight,
                "Cannot record the host in " + base::printable(folder) + ": " + cause);
}

/// The folder by a descriptor: whoever can change what is above it cannot lead us elsewhere.
base::UniqueFd open_empty(const std::string& folder) {
  if (::mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) {
    refuse(folder, base::error_text(errno));
  }
  base::UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat info {};
  if (!fd || ::fstat(fd.get(), &info) != 0) {
    refuse(folder, base::error_text(errno));
  }
  if (info.st_uid != ::geteuid() || (info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    refuse(folder, "others can write there; name a folder that is not there yet");
  }
  if (!std::filesystem::is_empty("/proc/self/fd/" + std::to_string(fd.get()))) {
    refuse(folder, "it is not empty; name a folder that is not there yet");
  }
  return fd;
}

void write_file(const std::string& path, const Entry& entry) {
  const base::UniqueFd fd =
      base::open_file(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, entry.mode);
  base::write_all(fd.get(), entry.content, entry.path);
  base::check(::fchmod(fd.get(), entry.mode), "set the mode of " + entry.path);
}

}  // namespace

Record record(const Tree& tree) {
  return Recorder(tree).take();
}

void write_record(const Record& record, const std::string& folder) {
  const base::UniqueFd root = open_empty(folder);
  const std::string prefix = "/proc/self/fd/" + std::to_string(root.get());
  for (const Entry& entry : record.entries) {
    const std::filesystem::path path = prefix + entry.path;
    std::filesystem::create_directories(entry.kind == Entry::Kind::folder ? path
                                                                          : path.parent_path());
    if (entry.kind == Entry::Kind::file) {
      write_file(path, entry);
    } else if (entry.kind == Entry::Kind::link) {
      std::filesystem::create_symlink(entry.content, path);
    }
  }
}

}  // namespace vmlaunch::launcher::survey
