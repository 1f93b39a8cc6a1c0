#include "launcher/steps/host.hpp"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <optional>
#include <system_error>
#include <utility>

#include <climits>

#include "base/affinity.hpp"
#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/packet.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "launcher/config/config.hpp"
#include "launcher/steps/links.hpp"
#include "launcher/steps/pci_paths.hpp"
#include "launcher/wire.hpp"

namespace vmlaunch::launcher::steps {

namespace {

constexpr std::size_t kAttributeLimit = 65536;

/// Waits for a child, and says now and then what for.
std::optional<base::ExitStatus> await(const base::Child& child,
                                      const std::string& action,
                                      base::Milliseconds limit,
                                      const Tell& tell) {
  constexpr base::Milliseconds kPatience{20000};
  std::optional<base::ExitStatus> status;
  for (auto left = limit; !status && left.count() > 0; left -= kPatience) {
    status = base::reap_within(child.pidfd.get(), std::min(left, kPatience));
    if (!status && tell) {
      tell("waiting for the kernel to " + action + ", at most " + base::to_string(limit));
    }
  }
  return status;
}

/// Runs `work` in a child, which exits with what it returns. `action` is verb and object.
template <typename Work>
base::ExitStatus in_child(const std::string& action,
                          base::Milliseconds limit,
                          Work work,
                          const Tell& tell = {}) {
  const pid_t parent = ::getpid();
  const base::Child child = base::fork_child("a child that may wait for the kernel");
  if (child.pid == 0) {
    try {
      // What it has not begun must not happen after somebody else has put everything back.
      base::check(::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "die with the parent");
      ::_exit(::getppid() == parent ? work() : EINTR);
    } catch (const std::exception&) {
      ::_exit(EIO);
    }
  }
  const auto status = await(child, action, limit, tell);
  if (!status) {
    static_cast<void>(base::send_signal(child.pidfd.get(), SIGKILL));  // for when it returns
    throw Stuck("Cannot " + action + ": the kernel has not come back for " +
                base::to_string(limit) + "; type: cat /proc/" + std::to_string(child.pid) +
                "/stack, and dmesg");
  }
  return *status;
}

/// The same for a child that exits with an errno.
template <typename Work>
void call_in_child(const std::string& action,
                   base::Milliseconds limit,
                   Work work,
                   const Tell& tell = {}) {
  const base::ExitStatus status = in_child(action, limit, work, tell);
  if (status.signal != 0 || status.code != 0) {
    base::throw_errno(status.signal != 0 ? EINTR : status.code, action);
  }
}

/// The same for a child that throws std::system_error.
template <typename Work>
void do_in_child(const std::string& action,
                 base::Milliseconds limit,
                 Work work,
                 const Tell& tell = {}) {
  call_in_child(
      action,
      limit,
      [&] {
        try {
          work();
          return 0;
        } catch (const std::system_error& error) {
          return error.code().value();
        }
      },
      tell);
}

/// The same for what waits for systemd.
template <typename Work>
void ask_systemd(const std::string& action, base::Milliseconds limit, Work work) {
  try {
    do_in_child(action, limit, work);
  } catch (const Stuck&) {
    throw Stuck("Cannot " + action + ": systemd has not answered for " + base::to_string(limit) +
                "; type: systemctl status dbus");
  }
}

/// The same for a child that opens something for us.
template <typename Open>
base::UniqueFd open_in_child(const std::string& action, base::Milliseconds limit, Open open) {
  auto [ours, childs] = base::make_socket_pair(SOCK_SEQPACKET);
  do_in_child(action, limit, [&, socket = childs.get()] {
    base::close_all_but({socket});
    base::send_packet(socket, "fd", {open().get()});
  });
  childs.reset();
  std::optional<base::Packet> packet = base::receive_packet(ours.get());
  if (!packet || packet->fds.size() != 1) {
    base::throw_errno(EIO, action);
  }
  return std::move(packet->fds.front());
}

/// What a child does with one attribute: `use` gets its descriptor.
template <typename Use>
int with_attribute(const base::Tree& tree, const std::string& path, int flags, Use use) {
  const base::UniqueFd fd = tree.open(path, flags);
  if (!fd) {
    return errno;
  }
  return use(fd.get()) < 0 ? errno : 0;
}

/// What a child finds out: `call` has it write that to a pipe, which takes kAttributeLimit bytes
/// before anybody reads.
template <typename Call>
std::string told(const std::string& what, Call call) {
  base::Pipe answer = base::make_pipe();
  call(answer.write_end.get());
  answer.write_end.reset();
  return base::read_all(answer.read_end.get(), kAttributeLimit, what);
}

/// Huge pages come from that node alone from now on: the pool takes the preferred node for the only
/// one (init_nodemask_of_mempolicy(), mm/mempolicy.c). Bound to it, this process could need a page
/// of its own where there is none, and the kernel would kill somebody for it.
void prefer_node(unsigned node) {
  constexpr std::size_t kBits = sizeof(unsigned long) * CHAR_BIT;
  std::array<unsigned long, (config::kMostNodes + kBits - 1) / kBits> nodes{};
  nodes.at(node / kBits) = 1UL << (node % kBits);
  // The kernel takes one bit less than it is told.
  base::check(::syscall(SYS_set_mempolicy, MPOL_PREFERRED, nodes.data(), config::kMostNodes + 1),
              "choose the memory node " + std::to_string(node));
}

}  // namespace

std::string Host::read_bytes(const std::string& path) const {
  const std::string action = "read " + tree_.path_of(path);
  return told(action, [&](int answer) {
    call_in_child(action, deadlines_.attribute, [&] {
      return with_attribute(tree_, path, O_RDONLY, [&](int fd) {
        base::close_all_but({fd, answer});
        std::array<char, 4096> buffer{};  // a page is all that an attribute shows
        const ssize_t got = ::read(fd, buffer.data(), buffer.size());
        return got <= 0 ? got : ::write(answer, buffer.data(), static_cast<size_t>(got));
      });
    });
  });
}

std::string Host::read_locked(const std::string& path) const {
  std::string text = read_bytes(path);
  if (text.ends_with('\n')) {
    text.pop_back();
  }
  return text;
}

void Host::write_within(const std::string& path,
                        const std::string& value,
                        base::Milliseconds limit,
                        std::optional<unsigned> node) const {
  const std::string action = "write \"" + base::printable(value) + "\" to " + tree_.path_of(path);
  const auto work = [&] {
    if (node) {
      prefer_node(*node);
    }
    const int flags = O_WRONLY | O_NOFOLLOW;
    return with_attribute(tree_, path, flags, [&](int fd) {
      base::close_all_but({fd});
      const std::string line = value + "\n";
      return ::write(fd, line.data(), line.size());
    });
  };
  call_in_child(action, limit, work, listener_);
}

void Host::write(const std::string& path, const std::string& value) {
  write_within(path, value, deadlines_.attribute);
}

std::vector<int> Host::write_each(const std::vector<std::pair<std::string, std::string>>& values) {
  constexpr std::size_t kAtOnce = 256;  // a process may have four times as many descriptors
  std::vector<int> errors;
  for (std::size_t begin = 0; begin < values.size(); begin += kAtOnce) {
    const std::size_t end = std::min(values.size(), begin + kAtOnce);
    const std::string action = "write to " + tree_.path_of(values[begin].first) + " and others";
    const std::string answers = told(action, [&](int answer) {
      call_in_child(action, deadlines_.attribute, [&] {
        std::vector<base::UniqueFd> files;
        std::vector<int> kept = {answer};
        std::vector<int> results;
        for (std::size_t i = begin; i < end; ++i) {
          files.push_back(tree_.open(values[i].first, O_WRONLY | O_NOFOLLOW));
          results.push_back(files.back() ? 0 : errno);
          if (files.back()) {
            kept.push_back(files.back().get());
          }
        }
        base::close_all_but(kept);
        std::string lines;
        for (std::size_t i = begin; i < end; ++i) {
          const std::string line = values[i].second + "\n";
          int& result = results[i - begin];
          if (result == 0 && ::write(files[i - begin].get(), line.data(), line.size()) < 0) {
            result = errno;
          }
          lines += std::to_string(result) + "\n";
        }
        return ::write(answer, lines.data(), lines.size()) < 0 ? errno : 0;
      });
    });
    for (const std::string& line : base::split(answers, '\n')) {
      if (const auto error = base::parse_number<unsigned>(line)) {
        errors.push_back(static_cast<int>(*error));
      }
    }
  }
  if (errors.size() != values.size()) {
    base::throw_errno(EIO, "write to " + std::to_string(values.size()) + " files of the kernel's");
  }
  return errors;
}

void Host::write_to_driver(const std::string& path, const std::string& value) {
  write_within(path, value, deadlines_.driver);
}

void Host::write_on_node(const std::string& path, const std::string& value, unsigned node) {
  write_within(path, value, deadlines_.memory, node);
}

void Host::sync() {
  call_in_child("write what files have in memory to disk", deadlines_.memory, [] {
    base::close_all_but({});
    ::sync();
    return 0;
  });
}

void Host::make_folder(const std::string& path) {
  base::check(::mkdir(tree_.path_of(path).c_str(), 0755), "make " + path);
}

void Host::remove_folder(const std::string& path) {
  base::check(::rmdir(tree_.path_of(path).c_str()), "remove " + path);
}

base::UniqueFd Host::make_tap(const std::string& name,
                              const std::string& bridge,
                              const std::string& guest_mac) {
  return open_in_child("make the tap " + name + " on the bridge " + bridge,
                       deadlines_.attribute,
                       [&] { return new_tap(name, bridge, guest_mac); });
}

base::UniqueFd Host::open_tap(const std::string& name, bool multi_queue) {
  return open_in_child(
      "open the tap " + name, deadlines_.attribute, [&] { return old_tap(name, multi_queue); });
}

void Host::add_macvtap(const std::string& name, const std::string& link, const std::string& mac) {
  do_in_child("make the macvtap " + name + " on " + link, deadlines_.driver, [&] {
    base::close_all_but({});
    new_macvtap(name, link, mac);
  });
}

void Host::remove_link(unsigned index) {
  do_in_child("remove the network link number " + std::to_string(index), deadlines_.driver, [&] {
    base::close_all_but({});
    delete_link(index);
  });
}

systemd::Unit Host::unit(const std::string& name) const {
  const Json json = Json::parse(told(name, [&](int answer) {
    ask_systemd("look at the unit " + name, deadlines_.systemd, [&] {
      base::close_all_but({answer});
      const systemd::Unit unit = systemd::look_at_unit(name);
      const Json found = {{"state", unit.active_state},
                          {"job", unit.has_job},
                          {"loaded", unit.loaded},
                          {"returns", unit.can_return}};
      base::write_all(answer, found.dump(), name);
    });
  }));
  Fields fields(json);
  return {fields.text("state"),
          fields.boolean("job"),
          fields.boolean("loaded"),
          fields.boolean("returns")};
}

void Host::stop_unit(const std::string& name) {
  ask_systemd("stop the unit " + name, deadlines_.systemd, [&] {
    base::close_all_but({});
    systemd::stop_unit(name);
  });
}

void Host::start_unit(const std::string& name) {
  ask_systemd("start the unit " + name, deadlines_.systemd, [&] {
    base::close_all_but({});
    systemd::start_unit(name);
  });
}

void Host::demand_controllers(const std::string& unit, unsigned weight, const base::CpuSet& cpus) {
  ask_systemd("ask for cgroup controllers of " + unit, deadlines_.systemd, [&] {
    base::close_all_but({});
    systemd::demand_controllers(unit, weight, cpus);
  });
}

std::map<std::string, base::CpuSet> Host::allowed_cpus(
    const std::vector<std::string>& units) const {
  const std::string action = "the CPUs of units";
  const Json json = Json::parse(told(action, [&](int answer) {
    ask_systemd("look at " + action, deadlines_.systemd, [&] {
      base::close_all_but({answer});
      Json found = Json::object();
      for (const auto& [unit, cpus] : systemd::allowed_cpus(units)) {
        found[unit] = base::to_string(cpus);
      }
      base::write_all(answer, found.dump(), action);
    });
  }));
  Fields fields(json);
  std::map<std::string, base::CpuSet> found;
  for (const std::string& unit : units) {
    if (json.contains(unit)) {
      found[unit] = base::parse_cpu_set(fields.text(unit.c_str())).value_or(base::CpuSet());
    }
  }
  return found;
}

void Host::allow_cpus(const std::string& unit, const base::CpuSet& cpus) {
  ask_systemd("set the CPUs of " + unit, deadlines_.systemd, [&] {
    base::close_all_but({});
    systemd::allow_cpus(unit, cpus);
  });
}

std::vector<int> Host::set_affinity_each(
    const std::vector<std::pair<pid_t, base::CpuSet>>& threads) {
  std::vector<int> errors;
  errors.reserve(threads.size());
  for (const auto& [thread, cpus] : threads) {
    errors.push_back(base::set_affinity(thread, cpus));
  }
  return errors;
}

base::ExitStatus Host::run_program(const std::vector<std::string>& words) const {
  return in_child("run " + base::join(words, " "), deadlines_.program, [&] {
    base::close_all_but({});
    std::vector<const char*> arguments;
    arguments.reserve(words.size() + 1);
    for (const std::string& word : words) {
      arguments.push_back(word.c_str());
    }
    arguments.push_back(nullptr);
    std::array<char*, 1> environment{nullptr};
    ::execve(arguments.front(), const_cast<char* const*>(arguments.data()), environment.data());
    return 127;
  });
}

void Host::load_module(const std::string& name) {
  if (run_program({"/sbin/modprobe", "-q", "--", name}) != base::ExitStatus{}) {
    throw Failure(
        ExitCode::failed,
        "Cannot load the kernel module " + name + "; type: modprobe -v " + base::shell_quote(name));
  }
}

std::string Host::read_config(const base::PciAddress& device) const {
  return read_bytes(device_folder(device) + "/config");
}

void Host::reset(const base::PciAddress& device, std::size_t methods) {
  write_within(device_folder(device) + "/reset", "1", deadlines_.reset * static_cast<int>(methods));
}

void Host::reset_below(const base::PciAddress& bridge) {
  write_within(device_folder(bridge) + "/reset_subordinate", "1", deadlines_.reset);
}

std::vector<VfioReset> Host::ask_vfio(const std::vector<base::PciAddress>& devices) const {
  const std::string action = "ask vfio about " + base::to_string(devices.front());
  return read_vfio_resets(Json::parse(told(action, [&](int answer) {
    do_in_child(
        action,
        deadlines_.reset,
        [&] {
          base::close_all_but({answer});
          const base::Tree tree(tree_.path_of(""));
          const Vfio vfio(tree, devices);
          std::vector<VfioReset> answers;
          answers.reserve(devices.size());
          for (const base::PciAddress& device : devices) {
            answers.push_back(vfio.ask(device));
          }
          base::write_all(answer, to_json(answers).dump(), "the answer");
        },
        listener_);
  })));
}

std::string Host::open_group_of(const std::vector<base::PciAddress>& devices) const {
  const std::string action = "ask who has " + base::to_string(devices.front());
  return told(action, [&](int answer) {
    do_in_child(
        action,
        deadlines_.attribute,
        [&] {
          base::close_all_but({answer});
          const base::Tree tree(tree_.path_of(""));
          base::write_all(answer, find_open_group(tree, devices), "the answer");
        },
        listener_);
  });
}

void Host::hot_reset(const std::vector<base::PciAddress>& devices) {
  do_in_child(
      "reset the bus of " + base::to_string(devices.front()),
      deadlines_.reset,
      [&] {
        base::close_all_but({});
        const base::Tree tree(tree_.path_of(""));
        Vfio(tree, devices).hot_reset(devices.front());
      },
      listener_);
}

KernelLog Host::kernel_log(const std::vector<std::string>& about, std::uint64_t since) const {
  return read_kernel_log(tree_, about, since);
}

std::vector<Holder> Host::holders(const base::PciAddress& device) const {
  constexpr std::size_t kMost = 128;  // what fits into the pipe
  const std::string action = "see who has " + base::to_string(device) + " open";
  return read_holders(Json::parse(told(action, [&](int answer) {
    do_in_child(action, deadlines_.attribute, [&] {
      base::close_all_but({answer});
      const base::Tree tree(tree_.path_of(""));
      std::vector<Holder> found = find_holders(nodes_of(tree, device));
      found.resize(std::min(found.size(), kMost));
      base::write_all(answer, to_json(found).dump(), "the answer");
    });
  })));
}

}  // namespace vmlaunch::launcher::steps
