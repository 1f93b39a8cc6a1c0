#include "launcher/guardian/guardian.hpp"

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/idle.hpp"
#include "base/packet.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "launcher/guardian/detach.hpp"
#include "launcher/guardian/host_changes.hpp"
#include "launcher/guardian/image_head.hpp"
#include "launcher/guardian/interrupts.hpp"
#include "launcher/guardian/plan_file.hpp"
#include "launcher/guardian/protocol.hpp"
#include "launcher/guardian/threads.hpp"
#include "launcher/guardian/usb_nodes.hpp"
#include "launcher/guardian/wait_news.hpp"
#include "launcher/steps/pci_paths.hpp"
#include "launcher/steps/steps.hpp"
#include "sandbox/private_dev.hpp"
#include "sandbox/spawn.hpp"

namespace vmlaunch::launcher::guardian {

namespace {

using base::check;

/// A supervisor that takes nothing for so long is as good as gone.
constexpr timeval kSendDeadline{5, 0};

/// A word on the terminal while the supervisor cannot give it. Never waits for a stopped terminal.
void say(const std::string& text) {
  pollfd standard_error{STDERR_FILENO, POLLOUT, 0};
  if (::poll(&standard_error, 1, 0) == 1 && (standard_error.revents & POLLOUT) != 0) {
    const std::string line = "vmlaunch guardian: " + text + "\n";
    static_cast<void>(!::write(STDERR_FILENO, line.data(), line.size()));
  }
}

class Guardian {
 public:
  Guardian(base::UniqueFd control, Identity identity, Rescuer rescuer)
      : control_(std::move(control)), identity_(std::move(identity)), rescuer_(rescuer) {
    changes_.host().on_tell([this](const std::string& text) { tell_progress(text); });
  }

  int run() {
    while (!finished_) {
      std::array<pollfd, 3> waited = {
          {{control_.get(), POLLIN, 0}, {pidfd(), POLLIN, 0}, {calls_fd(), POLLIN, 0}}};
      if (::poll(waited.data(), waited.size(), -1) < 0 && errno != EINTR) {
        base::throw_errno("wait for the supervisor");
      }
      // Each in its turn, so that none can keep the others waiting.
      if (waited[2].revents != 0) {
        answer_call();
      }
      if (waited[1].revents != 0) {
        note_end_of_qemu();
      }
      if (waited[0].revents != 0 && !serve()) {
        supervisor_gone();
        return 0;
      }
    }
    return 0;
  }

 private:
  [[nodiscard]] int pidfd() const { return qemu_ ? qemu_->pidfd.get() : -1; }

  [[nodiscard]] int calls_fd() const { return calls_ ? calls_->fd() : -1; }

  /// A thread of QEMU's waits for the answer.
  void answer_call() {
    try {
      if (const auto refused = calls_->serve()) {
        tell(*refused);
      }
    } catch (const std::system_error& error) {
      say(std::string("QEMU's system calls cannot be answered, and fail: ") + error.what());
      calls_.reset();
    }
  }

  void tell(const sandbox::RefusedCall& refused) {
    const std::string name = sandbox::call_name(refused.call.number);
    if (!control_) {
      say("QEMU tried " + name + ", which its plan does not allow");
      return;
    }
    try {
      reply(CallRefused{name, refused});
    } catch (const std::system_error&) {
      // The supervisor is gone; the next poll says so.
    }
  }

  void reply(const Reply& reply, const std::vector<int>& fds = {}) {
    base::send_packet(control_.get(), encode(reply), fds);
  }

  /// Serves one request; false when the supervisor is gone or does not keep to the protocol.
  bool serve() {
    try {
      std::optional<base::Packet> packet = base::receive_packet(control_.get());
      if (!packet) {
        return false;
      }
      handle(decode_request(packet->bytes), std::move(packet->fds));
      if (started_) {
        base::give_back_code();  // as a rule nothing more comes for long
      }
      return true;
    } catch (const ProtocolError& error) {
      say(std::string("the supervisor does not keep to the protocol: ") + error.what());
    } catch (const std::system_error& error) {
      say(std::string("the supervisor cannot be served: ") + error.what());
    }
    return false;
  }

  void handle(const Request& request, std::vector<base::UniqueFd> fds) {
    try {
      if (const auto* begin_request = std::get_if<Begin>(&request)) {
        begin(*begin_request);
      } else if (const auto* seal_request = std::get_if<Seal>(&request)) {
        seal(*seal_request, std::move(fds));
      } else if (const auto* step = std::get_if<Apply>(&request)) {
        apply(*step);
      } else if (std::holds_alternative<Spawn>(request)) {
        spawn();
      } else if (const auto* threads = std::get_if<Schedule>(&request)) {
        schedule(*threads);
      } else if (std::holds_alternative<Started>(request)) {
        note_start();
      } else if (std::holds_alternative<PlaceInterrupts>(request)) {
        place_device_interrupts();
      } else if (const auto* phase = std::get_if<FilterPhase>(&request)) {
        change_phase(*phase);
      } else if (std::holds_alternative<UsbChanged>(request)) {
        note_usb_change();
      } else if (std::holds_alternative<Restart>(request)) {
        restart();
      } else if (const auto* signal = std::get_if<Signal>(&request)) {
        send_signal(*signal);
      } else if (std::holds_alternative<Stop>(request)) {
        reply(status());  // the step that it was for is over
      } else if (std::holds_alternative<Status>(request)) {
        tell_status();
      } else {
        undo(std::get<Undo>(request));
      }
    } catch (const Failure& failure) {
      reply(Refused{failure.code(), failure.what()});
    } catch (const std::system_error& error) {
      reply(Refused{ExitCode::failed, error.what()});
    }
  }

  void tell_status() {
    const base::UniqueFd self(
        static_cast<int>(check(::syscall(SYS_pidfd_open, ::getpid(), 0), "find ourselves")));
    reply(status(), {self.get()});
  }

  [[nodiscard]] StatusReply status() const {
    if (qemu_) {
      return {"running", qemu_->pid};
    }
    return {spawned_ ? "ended" : (sealed_ ? "sealed" : "idle"), 0};
  }

  void begin(const Begin& request) {
    if (begun_) {
      throw ProtocolError("a second run");
    }
    begun_ = true;
    dry_ = request.dry;
    const Begun begun{dry_ ? changes_.look(request.vm)
                           : changes_.begin(request.vm, request.force_tainted)};
    vm_ = request.vm;  // a name that was refused is no VM's that a plan could be for
    reply(begun);
  }

  void seal(const Seal& request, std::vector<base::UniqueFd> fds) {
    const std::size_t expected = 2 + (request.program_opened ? 1 : 0) + request.opened.size();
    if (sealing_ || request.plan.name != vm_) {
      throw ProtocolError(sealing_ ? "a second plan" : "a plan for a VM that was not begun");
    }
    if (fds.size() != expected) {
      throw ProtocolError("the plan's descriptors do not match it");
    }
    sealing_ = true;
    authority_ =
        identity_.privileged
            ? derive_authority(
                  fds[0].get(), fds[1].get(), request.config_name, identity_.user.credentials.uid)
            : Authority::user;
    plan_ = request.plan;
    choose_credentials();
    auto next = fds.begin() + 2;
    program_ = request.program_opened ? std::move(*next++) : open_own_program();
    files_.resize(plan_.files.size());
    for (const std::size_t index : request.opened) {
      files_[index].fd = std::move(*next++);
    }
    const Sealed sealed = open_own_files();
    require_distinct_files(plan_, files_);
    require_readable_by_qemu();
    raise_memlock();
    make_dev();
    log_begin_ = changes_.host().kernel_log({}, 0).next;
    dry_ ? changes_.require_unreserved(plan_.steps) : changes_.reserve(plan_.steps);
    changes_.check(plan_.steps);
    require_right_to_place();
    if (!dry_) {
      keep_capabilities();
      sealed_ = true;
    }
    reply(sealed);
  }

  /// Our own hard limit, which QEMU's is set below: afterwards the right to raise it is given up.
  void raise_memlock() const {
    rlimit limit{};
    check(::getrlimit(RLIMIT_MEMLOCK, &limit), "read the limit of locked memory");
    if (!plan_.qemu.memlock || limit.rlim_max >= plan_.qemu.memlock->bytes) {
      return;
    }
    limit.rlim_max = plan_.qemu.memlock->bytes;
    if (::setrlimit(RLIMIT_MEMLOCK, &limit) != 0) {
      throw Failure(ExitCode::preflight,
                    "Cannot let QEMU lock " + base::to_string(*plan_.qemu.memlock) +
                        " of memory for its devices: " + base::error_text(errno) +
                        " (this root lacks CAP_SYS_RESOURCE); type: ulimit -H -l");
    }
  }

  /// Its nodes follow when QEMU starts: those of vfio come with the devices.
  void make_dev() {
    const plan::Root& root = plan_.qemu.root;
    if (root.user_namespace == identity_.privileged) {
      throw ProtocolError("a user namespace is for users' runs, and for all of them");
    }
    if (!plan_.qemu.dev && (identity_.privileged || !root.whole_host)) {
      throw ProtocolError("QEMU sees the host's /dev in a user's run alone, with all other files");
    }
    if (!identity_.privileged) {
      require_user_namespace();
      return;
    }
    try {
      dev_.emplace(credentials_);
    } catch (const std::system_error& error) {
      throw Failure(ExitCode::preflight,
                    std::string(error.what()) +
                        "; as root QEMU gets a /dev of its own, which needs CAP_SYS_ADMIN, "
                        "CAP_MKNOD and CAP_CHOWN: in a container, give it those, or run "
                        "vmlaunch there as a user; type: capsh --print");
    }
  }

  void require_user_namespace() const {
    const int obstacle =
        plan_.qemu.dev ? sandbox::private_root_obstacle(plan_.qemu.root.network) : 0;
    if (obstacle != 0) {
      throw Failure(
          ExitCode::preflight,
          "Cannot give QEMU a root folder of its own: " + base::error_text(obstacle) +
              "; without root that takes a user namespace, which this host does not let you have; "
              "what an administrator can do: vmlaunch setup FILE; or do without: vmlaunch run "
              "--sandbox=off FILE");
    }
  }

  void require_right_to_place() const {
    if (plan_.placement.pinned() && identity_.privileged &&
        !sandbox::has_capability(CAP_SYS_NICE)) {
      throw Failure(ExitCode::preflight,
                    "Cannot place the vCPUs: this root lacks CAP_SYS_NICE, as in a container that "
                    "was not given it; type: grep CapEff /proc/self/status");
    }
  }

  /// Those that the plan still needs: QEMU's root folder is made once, nodes come with USB devices.
  void keep_capabilities() const {
    sandbox::Capabilities needed = {CAP_KILL, CAP_SETUID, CAP_SETGID, CAP_SETPCAP};
    const bool spawns = !spawned_ || plan_.restarts;
    if (dev_ && spawns) {
      needed.insert(needed.end(), {CAP_SYS_ADMIN, CAP_SYS_CHROOT});
    }
    if (dev_ && (spawns || !plan_.qemu.dev->usb.empty())) {
      needed.insert(needed.end(), {CAP_MKNOD, CAP_CHOWN});
    }
    if (plan_.placement.pinned()) {
      needed.push_back(CAP_SYS_NICE);
    }
    for (const steps::Step& step : plan_.steps) {
      const sandbox::Capabilities own = step->capabilities();
      needed.insert(needed.end(), own.begin(), own.end());
    }
    sandbox::keep_only(needed);
  }

  [[nodiscard]] steps::Context context() {
    return {plan_.name,
            credentials_,
            [this](const auto& born) { start_qemu(born); },
            [this](int theirs, base::UniqueFd fd) { given_.emplace_back(theirs, std::move(fd)); },
            [this](const std::string& text) { tell_wait(text); }};
  }

  /// Whatever the supervisor says while a step waits, and its end too, means that the step is to
  /// give up.
  void tell_wait(const std::string& text) {
    if (base::wait_readable(control_.get(), std::chrono::steady_clock::now())) {
      throw Failure(ExitCode::ended, "stopped before QEMU was started");
    }
    if (news_.pass(text, std::chrono::steady_clock::now())) {
      reply(Waiting{text});
    }
  }

  void tell_progress(const std::string& text) {
    if (!control_) {
      say(text);
      return;
    }
    try {
      reply(Waiting{text});
    } catch (const std::system_error&) {
      // The supervisor is gone; the next poll says so.
    }
  }

  void apply(const Apply& request) {
    if (!sealed_ || spawned_ || request.step != applied_ || applied_ >= plan_.steps.size()) {
      throw ProtocolError("a step out of order");
    }
    ++applied_;
    news_ = {};
    changes_.apply(plan_.steps[request.step], context());
    reply(Applied{request.step});
  }

  /// The supervisor's word for who QEMU is counts only as far as the config's owner may choose.
  void choose_credentials() {
    const auto& wanted = plan_.qemu.user.credentials;
    if (!identity_.privileged) {
      credentials_ = identity_.user.credentials;
      if (!wanted || wanted->uid != credentials_.uid) {
        throw ProtocolError("another user without root");
      }
      return;
    }
    const User user = wanted ? find_user(std::to_string(wanted->uid)) : unused_qemu_user();
    const bool allowed =
        !wanted || authority_ == Authority::root || wanted->uid == identity_.user.credentials.uid;
    if (user.credentials.uid == 0 || !allowed) {
      throw ProtocolError("QEMU may not run as " + user.name);
    }
    credentials_ = {user.credentials.uid, user.credentials.gid, {}};
  }

  [[nodiscard]] bool may_open() const {
    return identity_.privileged && authority_ == Authority::root;
  }

  base::UniqueFd open_own_program() const {
    if (!may_open()) {
      throw ProtocolError("no program");
    }
    return open_program(require_roots_own_path(plan_.qemu.binary));
  }

  /// Those that the supervisor had no right to open.
  Sealed open_own_files() {
    Sealed sealed;
    for (std::size_t i = 0; i < files_.size(); ++i) {
      if (files_[i].fd) {
        continue;
      }
      if (!may_open()) {
        throw ProtocolError("a file is missing");
      }
      plan::FileUse file = plan_.files[i];
      file.path = require_roots_own_path(file.path);
      if (file.create == plan::FileUse::Create::from_template) {
        file.template_path = require_roots_own_path(file.template_path);
      }
      if (dry_ && must_be_made(file)) {
        check_plan_file(file);
        continue;
      }
      files_[i] = open_plan_file(file);
      if (file.is_qcow2) {
        sealed.files.push_back({i, head_of(files_[i].fd.get())});
      }
    }
    return sealed;
  }

  /// A kernel or ROM is opened again by QEMU, with QEMU's rights.
  void require_readable_by_qemu() const {
    for (std::size_t i = 0; i < files_.size(); ++i) {
      if (!plan_.files[i].reopened) {
        continue;
      }
      struct stat info {};
      check(::fstat(files_[i].fd.get(), &info), "look at " + plan_.files[i].path);
      if (!S_ISREG(info.st_mode)) {
        throw ProtocolError("what QEMU opens by name is a file");
      }
      if (!identity_.privileged) {
        continue;
      }
      const bool readable = (info.st_mode & S_IROTH) != 0 ||
                            (info.st_uid == credentials_.uid && (info.st_mode & S_IRUSR) != 0) ||
                            (info.st_gid == credentials_.gid && (info.st_mode & S_IRGRP) != 0);
      if (!readable) {
        throw Failure(ExitCode::preflight,
                      "Cannot let QEMU (uid " + std::to_string(credentials_.uid) + ") read the " +
                          plan_.files[i].purpose + "; type: chmod o+r " +
                          base::shell_quote(plan_.files[i].path));
      }
    }
  }

  void spawn() {
    if (!sealed_ || spawned_ || applied_ != plan_.steps.size()) {
      throw ProtocolError("QEMU is spawned after all steps of the sealed plan, one at a time");
    }
    spawned_ = true;
    changes_.apply(steps::start_qemu(has_cgroup()), context());
    keep_capabilities();
  }

  /// One of its kind, whatever its parameters.
  [[nodiscard]] bool has(const steps::Step& example) const {
    return std::any_of(plan_.steps.begin(), plan_.steps.end(), [&](const steps::Step& step) {
      return step->kind() == std::string(example->kind());
    });
  }
  [[nodiscard]] bool has_cgroup() const { return has(steps::make_cgroup(plan_.name)); }

  /// Of the vCPUs alone; "" for none.
  [[nodiscard]] std::string vcpu_cgroup() const {
    return has(steps::isolate_cpus(plan_.name, {}))
               ? steps::cgroup_of(changes_.host(), plan_.name) + "/" + steps::kVcpuCgroup
               : "";
  }

  void start_qemu(const std::function<void(pid_t)>& born) {
    auto [qmp_ours, qmp_qemus] = base::make_socket_pair(SOCK_STREAM);
    base::Pipe errors = base::make_pipe();
    std::pair<base::UniqueFd, base::UniqueFd> serial;
    sandbox::ChildSpec child;
    child.program = program_.get();
    child.arguments = plan_.qemu.arguments;
    child.arguments.insert(child.arguments.begin(), plan_.qemu.binary);
    child.environment = plan_.qemu.environment;
    child.credentials = credentials_;
    if (plan_.qemu.memlock) {
      child.memlock = plan_.qemu.memlock->bytes;
    }
    if (dev_) {
      fill_dev();
    }
    if (!plan_.qemu.root.whole_host) {
      child.root = make_root();
    } else if (dev_) {
      child.dev = dev_->tree();
    }
    base::UniqueFd cgroup;
    if (has_cgroup()) {
      cgroup = base::open_file(steps::cgroup_of(changes_.host(), plan_.name), O_PATH | O_DIRECTORY);
      child.cgroup = cgroup.get();
    }
    if (plan_.qemu.calls.mode != config::Sandbox::off) {
      child.calls = plan::filter_of(plan_.qemu.calls);
    }
    child.fds = {{errors.write_end.get(), STDERR_FILENO}, {qmp_qemus.get(), plan::kQmpFd}};
    std::vector<int> handed = {qmp_ours.get(), errors.read_end.get()};
    if (plan_.qemu.serial_stdio) {
      serial = base::make_socket_pair(SOCK_STREAM);
      child.fds.push_back({serial.second.get(), plan::kSerialFd});
      handed.push_back(serial.first.get());
    }
    for (std::size_t i = 0; i < files_.size(); ++i) {
      if (!is_in_root(plan_.files[i])) {
        child.fds.push_back({files_[i].fd.get(), plan_.files[i].fd});
      }
    }
    for (const auto& [theirs, fd] : given_) {
      child.fds.push_back({fd.get(), theirs});
    }
    sandbox::Spawned spawned;
    try {
      spawned = sandbox::spawn(child, born);
    } catch (const sandbox::ChildSetupError& error) {
      throw Failure(ExitCode::qemu_did_not_start,
                    base::printable(plan_.qemu.binary) + " did not start: " + error.what());
    }
    qemu_ = std::move(spawned.child);
    calls_ = std::move(spawned.watch);
    qmp_ = std::move(qmp_ours);
    given_.clear();  // a tap is to go with QEMU
    for (const sandbox::RefusedCall& refused : spawned.refused) {
      tell(refused);
    }
    reply(Spawned{qemu_->pid}, handed);
  }

  /// QEMU finds it under a name, and has no descriptor of it.
  [[nodiscard]] bool is_in_root(const plan::FileUse& file) const {
    return file.reopened && !plan_.qemu.root.whole_host;
  }

  [[nodiscard]] sandbox::RootSpec make_root() {
    const plan::Root& planned = plan_.qemu.root;
    sandbox::RootSpec root;
    root.shared = planned.shared;
    root.hidden = planned.hidden;
    root.network = planned.network;
    for (std::size_t i = 0; i < files_.size(); ++i) {
      if (is_in_root(plan_.files[i])) {
        root.files.push_back({files_[i].fd.get(), plan::name_in_root(plan_.files[i].fd)});
      }
    }
    if (dev_) {
      root.dev = dev_->tree();
      return root;
    }
    const std::set<std::string> nodes = find_nodes();
    root.nodes.assign(nodes.begin(), nodes.end());
    if (!plan_.qemu.dev->usb.empty()) {
      root.nodes.emplace_back("bus/usb");  // of which a user may open what udev lets them
    }
    return root;
  }

  void fill_dev() {
    for (const std::string& node : find_nodes()) {
      dev_->add(node);
    }
    usb_.emplace(changes_, *dev_, plan_.qemu.dev->usb);
    usb_->give();
  }

  /// A card that was found anew may be in another IOMMU group than it was.
  [[nodiscard]] std::set<std::string> find_nodes() {
    std::set<std::string> nodes(plan_.qemu.dev->nodes.begin(), plan_.qemu.dev->nodes.end());
    for (const base::PciAddress& device : plan_.qemu.dev->devices) {
      nodes.insert("vfio/" + steps::iommu_group_of(changes_.host(), device));
    }
    return nodes;
  }

  void note_usb_change() {
    if (!spawned_ || !dev_ || plan_.qemu.dev->usb.empty()) {
      throw ProtocolError("a change of USB devices that the plan does not have");
    }
    if (qemu_) {
      usb_->follow();
    }
    reply(status());
  }

  void schedule(const Schedule& request) {
    if (!spawned_ || !plan_.placement.pinned()) {
      throw ProtocolError("threads that the plan does not place");
    }
    if (!threads_) {
      threads_.emplace(changes_.host(), plan_.placement, vcpu_cgroup());
    }
    if (qemu_) {
      threads_->place(qemu_->pid, request.vcpus, request.realtime);
    }
    reply(status());
  }

  void place_device_interrupts() {
    if (!started_ || !dev_ || !plan_.placement.pinned() || !has(steps::move_interrupts({}))) {
      throw ProtocolError("interrupts that the plan does not place");
    }
    if (qemu_) {
      const auto& devices = plan_.qemu.dev->devices;
      place_interrupts(changes_.host(), {devices.begin(), devices.end()}, plan_.placement.vcpus);
    }
    reply(status());
  }

  void note_start() {
    if (!spawned_ || started_) {
      throw ProtocolError("QEMU starts once");
    }
    started_ = true;
    if (calls_) {
      calls_->end_start(std::chrono::steady_clock::now());
    }
    changes_.after_start([this](const std::string& text) { reply(Waiting{text}); });
    reply(status());
  }

  /// A supervisor that dies in it leaves nothing open.
  void change_phase(const FilterPhase& request) {
    if (!started_ || plan_.qemu.hotplug.empty()) {
      throw ProtocolError("a device for a QEMU that takes none now");
    }
    if (calls_) {
      const auto now = std::chrono::steady_clock::now();
      calls_->end_start(request.open ? now + plan::kHotplugLimit : now);
    }
    reply(status());
  }

  void restart() {
    if (!plan_.restarts || !started_ || qemu_) {
      throw ProtocolError("another QEMU that the plan does not have");
    }
    given_.clear();
    threads_.reset();
    usb_.reset();
    spawned_ = false;
    started_ = false;
    news_ = {};
    if (dev_) {
      dev_.emplace(credentials_);
    }
    changes_.restart(plan_.steps, context());
    reply(status());
  }

  void send_signal(const Signal& request) {
    if (qemu_) {
      static_cast<void>(base::send_signal(qemu_->pidfd.get(), request.signal));
    }
    reply(status());
  }

  void note_end_of_qemu() {
    const std::optional<base::ExitStatus> status = base::try_reap(qemu_->pidfd.get());
    if (!status) {
      return;
    }
    qemu_.reset();
    calls_.reset();
    try {
      reply(Exited{*status});
    } catch (const std::system_error&) {
      // The supervisor is gone; the next poll says so.
    }
  }

  /// Answers QEMU's system calls until it has ended, or `other` can be read; at most until then.
  void attend(std::chrono::steady_clock::time_point deadline, int other = -1) {
    bool over = false;
    // A QEMU that never stops asking must not keep us past the deadline.
    while (!over && std::chrono::steady_clock::now() < deadline) {
      std::array<pollfd, 3> waited = {
          {{pidfd(), POLLIN, 0}, {other, POLLIN, 0}, {calls_fd(), POLLIN, 0}}};
      base::wait_any(waited, deadline);
      over = waited[0].revents != 0 || waited[1].revents != 0;
      if (waited[2].revents != 0) {
        answer_call();
      }
    }
  }

  bool ends_within(base::Milliseconds limit) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    if (qemu_) {
      attend(deadline);
    }
    // It may be a debugger's first.
    if (qemu_ && base::reap_until(qemu_->pidfd.get(), deadline)) {
      qemu_.reset();
      calls_.reset();
    }
    return !qemu_;
  }

  /// SIGTERM, then SIGKILL. What lives on after that is stuck in the kernel.
  bool end_qemu(base::Milliseconds patience) {
    if (!qemu_ || ends_within(patience)) {
      return true;
    }
    for (const auto& [signal, limit] : {std::pair(SIGTERM, plan_.deadlines.terminate),
                                        std::pair(SIGKILL, plan_.deadlines.kill)}) {
      static_cast<void>(base::send_signal(qemu_->pidfd.get(), signal));
      if (ends_within(limit)) {
        return true;
      }
    }
    return false;
  }

  steps::Undone undo_all(bool keep_files) {
    given_.clear();
    if (!end_qemu(base::Milliseconds(0))) {
      changes_.note_stuck(steps::start_qemu(has_cgroup()));
    }
    steps::Undone undone = changes_.undo();
    if (qemu_) {
      undone.code = ExitCode::stuck;
      undone.leftovers.insert(undone.leftovers.begin(), describe_stuck_qemu());
    }
    if (!keep_files) {
      remove_made_files(plan_, files_);
    }
    return undone;
  }

  /// With what the kernel has said of its devices, since one of them may be why.
  [[nodiscard]] std::string describe_stuck_qemu() const {
    const std::string pid = std::to_string(qemu_->pid);
    std::string text = "QEMU (pid " + pid +
                       ") does not end: it is stuck in the kernel, and nothing that it uses was "
                       "touched; type: cat /proc/" +
                       pid + "/stack";
    if (!plan_.qemu.dev || plan_.qemu.dev->devices.empty()) {
      return text;
    }
    std::vector<std::string> devices;
    for (const base::PciAddress& device : plan_.qemu.dev->devices) {
      devices.push_back(base::to_string(device));
    }
    text += "; it has " + base::join(devices, ", ");
    constexpr std::size_t kMostLines = 5;
    std::vector<std::string> lines = changes_.host().kernel_log(devices, log_begin_).lines;
    lines.erase(lines.begin(),
                lines.end() - static_cast<std::ptrdiff_t>(std::min(lines.size(), kMostLines)));
    for (const std::string& line : lines) {
      text += "\n  the kernel says: " + base::printable(line);
    }
    return text;
  }

  void undo(const Undo& request) {
    const steps::Undone undone = undo_all(request.keep_files);
    reply(Done{undone.code, undone.leftovers, undone.again});
    finished_ = true;
  }

  /// A guest whose supervisor died is shut down like any other, by somebody without rights.
  void supervisor_gone() {
    control_.reset();
    if (qemu_) {
      say("the supervisor is gone: the guest is shut down");
      if (threads_) {
        threads_->calm(qemu_->pid);
      }
      rescue();
      say(qemu_ ? "the guest does not end by itself: QEMU is ended" : "the guest has ended");
    }
    for (const std::string& leftover : undo_all(spawned_).leftovers) {
      say(leftover);
    }
  }

  void rescue() {
    const base::Milliseconds limit = plan_.deadlines.powerdown + plan_.deadlines.quit;
    const pid_t parent = ::getpid();
    const base::Child rescuer = base::fork_child("the rescuer");
    if (rescuer.pid == 0) {
      rescuer_(std::move(qmp_), plan_.deadlines, identity_.user.credentials, parent);
    }
    // The rescuer ends when QEMU does, or when it is at its wits' end.
    const auto deadline = std::chrono::steady_clock::now() + limit + std::chrono::seconds(1);
    attend(deadline, rescuer.pidfd.get());
    static_cast<void>(ends_within(base::Milliseconds(500)));
    static_cast<void>(base::send_signal(rescuer.pidfd.get(), SIGKILL));
    static_cast<void>(base::reap_within(rescuer.pidfd.get(), std::chrono::seconds(5)));
  }

  base::UniqueFd control_;
  Identity identity_;
  Rescuer rescuer_;
  Authority authority_ = Authority::user;
  plan::Plan plan_;
  sandbox::Credentials credentials_;
  std::optional<sandbox::PrivateDev> dev_;  ///< QEMU's, in a run as root
  std::optional<UsbGiver> usb_;             ///< what of it comes and goes
  base::UniqueFd program_;
  std::vector<OpenFile> files_;
  std::vector<std::pair<int, base::UniqueFd>> given_;  ///< by steps, for QEMU under that number
  std::optional<base::Child> qemu_;
  std::optional<sandbox::CallWatch> calls_;  ///< of QEMU
  std::optional<Threads> threads_;           ///< of QEMU, once they were placed
  base::UniqueFd qmp_;  ///< a second descriptor of QEMU's monitor, never read here
  HostChanges changes_;
  std::uint64_t log_begin_ = 0;  ///< where the kernel's log was when the run began
  std::string vm_;               ///< whose run was begun
  std::size_t applied_ = 0;      ///< steps of the plan, from the first
  bool begun_ = false;           ///< a VM was named, whether its name could be had or not
  bool dry_ = false;
  WaitNews news_;         ///< of the step that is applied
  bool sealing_ = false;  ///< a plan was given, whether it could be sealed or not
  bool sealed_ = false;
  bool spawned_ = false;
  bool started_ = false;  ///< QEMU has answered
  bool finished_ = false;
};

}  // namespace

int run(base::UniqueFd control, const Identity& identity, Rescuer rescuer) {
  try {
    base::UniqueFd own = detach(std::move(control));
    check(::setsockopt(own.get(), SOL_SOCKET, SO_SNDTIMEO, &kSendDeadline, sizeof kSendDeadline),
          "set the control socket's deadline");
    return Guardian(std::move(own), identity, rescuer).run();
  } catch (const std::exception& error) {
    say(error.what());
    return 1;
  }
}

}  // namespace vmlaunch::launcher::guardian
