#include "launcher/steps/holders.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/file.hpp"
#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/steps/pci_paths.hpp"

namespace vmlaunch::launcher::steps {

namespace {

namespace fs = std::filesystem;

constexpr unsigned kNvidiaMajor = 195;
constexpr const char* kNvidiaCards = "/proc/driver/nvidia/gpus";

/// "226:0"
std::optional<std::pair<unsigned, unsigned>> parse_number_pair(std::string_view text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    return std::nullopt;
  }
  const auto major = base::parse_number<unsigned>(text.substr(0, colon));
  const auto minor = base::parse_number<unsigned>(text.substr(colon + 1));
  return major && minor ? std::optional(std::pair(*major, *minor)) : std::nullopt;
}

/// The value behind `key` in a file with a line for each.
std::string value_of(const base::Tree& tree, const std::string& path, std::string_view key) {
  for (const std::string& line : base::split(tree.read(path).value_or(""), '\n')) {
    if (line.starts_with(key)) {
      const std::size_t start = line.find_first_not_of(" \t", key.size());
      return start == std::string::npos ? "" : line.substr(start);
    }
  }
  return "";
}

void add_node(const base::Tree& tree, const std::string& folder, std::vector<Node>& nodes) {
  const std::string text = tree.read(folder + "/dev").value_or("");
  if (const auto number = parse_number_pair(text)) {
    const std::string name = value_of(tree, folder + "/uevent", "DEVNAME=");
    nodes.push_back({"/dev/" + (name.empty() ? text : name),
                     tree.link_name(folder + "/subsystem") == "block",
                     number->first,
                     number->second});
  }
}

/// A node of its own under /dev: its number is what counts.
void add_node_at(const base::Tree& tree, const std::string& path, std::vector<Node>& nodes) {
  if (const auto info = tree.status(path); info && S_ISCHR(info->st_mode)) {
    nodes.push_back({path, false, major(info->st_rdev), minor(info->st_rdev)});
  }
}

void add_nvidia_nodes(const base::Tree& tree,
                      const base::PciAddress& device,
                      std::vector<Node>& nodes) {
  const std::string card = std::string(kNvidiaCards) + "/" + base::to_string(device);
  const auto minor =
      base::parse_number<unsigned>(value_of(tree, card + "/information", "Device Minor:"));
  if (!minor) {
    return;
  }
  nodes.push_back({"/dev/nvidia" + std::to_string(*minor), false, kNvidiaMajor, *minor});
  if (tree.list(kNvidiaCards).size() == 1) {
    for (const char* shared : {"nvidiactl", "nvidia-modeset", "nvidia-uvm", "nvidia-uvm-tools"}) {
      add_node_at(tree, std::string("/dev/") + shared, nodes);
    }
  }
}

void add_kfd_node(const base::Tree& tree,
                  const base::PciAddress& device,
                  std::vector<Node>& nodes) {
  const std::string driver = "/sys/bus/pci/drivers/amdgpu";
  if (!tree.exists(driver + "/" + base::to_string(device))) {
    return;
  }
  const std::vector<std::string> names = tree.list(driver);
  const auto cards = std::count_if(names.begin(), names.end(), [](const std::string& name) {
    return base::parse_pci_address(name).has_value();
  });
  if (cards == 1) {
    add_node_at(tree, "/dev/kfd", nodes);
  }
}

/// Looks into the processes for a set of nodes.
class Search {
 public:
  explicit Search(const std::vector<Node>& nodes) : nodes_(nodes) {}

  std::optional<Holder> look_at(const std::string& pid) const {
    const std::string folder = "/proc/" + pid;
    // Most processes of a host are the kernel's own, which have no program and open nothing.
    std::array<char, 1> program{};
    if (::readlink((folder + "/exe").c_str(), program.data(), program.size()) < 0 &&
        errno == ENOENT) {
      return std::nullopt;
    }
    std::optional<std::string> node = open_in(folder + "/fd");
    if (!node) {
      node = mapped_in(folder + "/maps");
    }
    const auto number = base::parse_number<pid_t>(pid);
    return node && number ? std::optional(Holder{*number, command_of(folder), *node})
                          : std::nullopt;
  }

 private:
  [[nodiscard]] std::optional<std::string> open_in(const std::string& path) const {
    const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(path.c_str()), ::closedir);
    if (!folder) {
      return std::nullopt;
    }
    const int fd = ::dirfd(folder.get());
    while (const dirent* entry = ::readdir(folder.get())) {
      struct statx info {};
      // The link is followed to the open file itself. Without DONT_SYNC a file of a dead network
      // server would be asked for there.
      if (entry->d_name[0] == '.' ||
          ::statx(fd, entry->d_name, AT_STATX_DONT_SYNC, STATX_TYPE, &info) != 0) {
        continue;
      }
      const Node* node = find(info);
      if (node != nullptr && !is_name_only(path, entry->d_name)) {
        return node->path;
      }
    }
    return std::nullopt;
  }

  [[nodiscard]] const Node* find(const struct statx& info) const {
    const bool block = S_ISBLK(info.stx_mode);
    if (!block && !S_ISCHR(info.stx_mode)) {
      return nullptr;
    }
    const auto found = std::find_if(nodes_.begin(), nodes_.end(), [&](const Node& node) {
      return node.block == block && node.major == info.stx_rdev_major &&
             node.minor == info.stx_rdev_minor;
    });
    return found == nodes_.end() ? nullptr : &*found;
  }

  /// Opened with O_PATH: the driver does not know of it.
  static bool is_name_only(const std::string& fds, const std::string& name) {
    std::ifstream info(fds + "info/" + name);
    for (std::string key, value; info >> key >> value;) {
      if (key == "flags:") {
        const auto flags = base::parse_number<unsigned>(value, 8);
        return flags && (*flags & unsigned{O_PATH}) != 0;
      }
    }
    return false;
  }

  /// A mapping outlives its descriptor. The path is the last of each line (proc(5)).
  [[nodiscard]] std::optional<std::string> mapped_in(const std::string& path) const {
    constexpr std::size_t kLimit = std::size_t{64} << 20U;
    std::string maps;
    try {
      maps = base::read_file(path, kLimit);
    } catch (const std::system_error&) {
      return std::nullopt;  // it has ended, or is the kernel's own
    }
    for (const Node& node : nodes_) {
      if (maps.find(" " + node.path + "\n") != std::string::npos) {
        return node.path;
      }
    }
    return std::nullopt;
  }

  static std::string command_of(const std::string& folder) {
    std::ifstream name_file(folder + "/comm");
    std::string name;
    std::getline(name_file, name);
    std::ifstream line_file(folder + "/cmdline", std::ios::binary);
    std::string program;
    std::string argument;
    std::getline(line_file, program, '\0');
    std::getline(line_file, argument, '\0');
    constexpr std::size_t kShown = 60;
    const std::string shown = base::printable(std::string_view(argument).substr(0, kShown));
    return base::printable(name) + (shown.empty() ? "" : " " + shown);
  }

  const std::vector<Node>& nodes_;
};

}  // namespace

std::vector<Node> nodes_of(const base::Tree& tree, const base::PciAddress& device) {
  std::vector<Node> nodes;
  const auto real = tree.resolve(device_folder(device));
  if (!real) {
    return nodes;
  }
  // Links are not followed: what is a part of the function is below it.
  const std::string root = tree.path_of("");
  std::error_code ignored;
  for (fs::recursive_directory_iterator entry(tree.path_of(*real), ignored), end; entry != end;
       entry.increment(ignored)) {
    if (entry->path().filename() == "dev" && !entry->is_symlink(ignored)) {
      add_node(tree, entry->path().parent_path().string().substr(root.size()), nodes);
    }
    if (ignored) {
      break;  // folders vanish while a driver works
    }
  }
  add_nvidia_nodes(tree, device, nodes);
  add_kfd_node(tree, device, nodes);
  return nodes;
}

std::vector<Holder> find_holders(const std::vector<Node>& nodes) {
  std::vector<Holder> holders;
  if (nodes.empty()) {
    return holders;
  }
  const Search search(nodes);
  for (const std::string& name : base::Tree("").list("/proc")) {
    const auto pid = base::parse_number<pid_t>(name);
    if (!pid || *pid == ::getpid() || *pid == ::getppid()) {
      continue;
    }
    if (auto holder = search.look_at(name)) {
      holders.push_back(std::move(*holder));
    }
  }
  std::sort(holders.begin(), holders.end(), [](const Holder& a, const Holder& b) {
    return a.pid < b.pid;
  });
  return holders;
}

Json to_json(const std::vector<Holder>& holders) {
  Json json = Json::array();
  for (const Holder& holder : holders) {
    json.push_back({{"pid", static_cast<unsigned>(holder.pid)},
                    {"command", wire_text(holder.command)},
                    {"node", wire_text(holder.node)}});
  }
  return json;
}

std::vector<Holder> read_holders(const Json& json) {
  std::vector<Holder> holders;
  for (const Json& one : json) {
    Fields fields(one);
    const auto pid = static_cast<pid_t>(fields.number("pid", 1, INT32_MAX));
    const std::string command = fields.text("command");
    holders.push_back({pid, command, fields.text("node")});
    fields.finish();
  }
  return holders;
}

void refuse_held(const base::PciAddress& device, const std::vector<Holder>& holders) {
  std::string pids;
  for (const Holder& holder : holders) {
    pids.append(" ").append(std::to_string(holder.pid));
  }
  throw Failure(ExitCode::device_busy,
                "Cannot take " + base::to_string(device) + " from the host: " + names_of(holders) +
                    " " + (holders.size() == 1 ? "has" : "have") + " " + nodes_held(holders) +
                    " open; end what uses it, or type: kill" + pids);
}

std::string names_of(const std::vector<Holder>& holders) {
  constexpr std::size_t kShown = 8;
  std::vector<std::string> names;
  for (std::size_t i = 0; i < std::min(holders.size(), kShown); ++i) {
    names.push_back(holders[i].command + " (" + std::to_string(holders[i].pid) + ")");
  }
  if (holders.size() > kShown) {
    names.push_back("and " + std::to_string(holders.size() - kShown) + " more");
  }
  return base::join(names, ", ");
}

std::string nodes_held(const std::vector<Holder>& holders) {
  std::set<std::string> paths;
  for (const Holder& holder : holders) {
    paths.insert(holder.node);
  }
  return base::join({paths.begin(), paths.end()}, ", ");
}

}  // namespace vmlaunch::launcher::steps
