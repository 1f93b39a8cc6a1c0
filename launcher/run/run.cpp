#include "launcher/run/run.hpp"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/idle.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "launcher/run/qemu_errors.hpp"
#include "launcher/run/serial_relay.hpp"
#include "launcher/run/stop_ladder.hpp"
#include "launcher/run/usb_watch.hpp"
#include "launcher/run/verdict.hpp"
#include "qmp/client.hpp"
#include "qmp/commands.hpp"
#include "qmp/ending.hpp"
#include "qmp/values.hpp"

namespace vmlaunch::launcher::run {

namespace {

namespace asio = boost::asio;
using std::chrono::steady_clock;

/// What QEMU wrote before it ended is passed on within this time.
constexpr std::chrono::seconds kDrain{2};

/// For a QEMU that could not start to be gone.
constexpr std::chrono::seconds kEndByItself{1};

/// For a QEMU that has said that it ends, beside what its memory and devices take.
constexpr std::chrono::seconds kEndAfterWord{30};

/// For the guardian to answer: more than any single wait of its own.
constexpr std::chrono::seconds kGuardianMargin{30};

/// For the guardian to open files too, and to wait for a recovery that has one of the devices.
constexpr std::chrono::minutes kSealDeadline{5};

/// For one change of the host, or its undo: more than the guardian waits for the kernel in it.
constexpr std::chrono::seconds kStepDeadline{150};

sigset_t stop_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    ::sigaddset(&signals, signal);
  }
  return signals;
}

void release_stop_signals() {
  const sigset_t signals = stop_signals();
  static_cast<void>(::sigprocmask(SIG_UNBLOCK, &signals, nullptr));
}

class Run {
 public:
  Run(RunInput input, Terminal& terminal, Console& console)
      : input_(std::move(input)),
        terminal_(terminal),
        console_(console),
        signals_(io_, SIGINT, SIGTERM),
        changed_(io_),
        next_rung_(io_),
        look_(io_),
        guardian_(io_,
                  input_.guardian.take_control(),
                  input_.guardian.process(),
                  {[this] { wake(); },
                   [this](const std::string& text) { console_.say(text); },
                   [this](const guardian::CallRefused& refused) { note(refused); },
                   [this](const std::string& why) { note_refusal(why); }}),
        ladder_(plan().deadlines),
        lines_(1),
        serial_ends_{terminal_.take_input(), terminal_.take_output()} {}

  ExitCode run() {
    if (!hang_up_ignored()) {
      signals_.add(SIGHUP);
    }
    watch_signals();
    release_stop_signals();
    ExitCode code = ExitCode::failed;
    asio::co_spawn(io_, live(), [&](const std::exception_ptr& error, ExitCode result) {
      code = error ? report(error) : result;
      io_.stop();
    });
    io_.run();
    return worse(code, reap_guardian());
  }

 private:
  /// How a QEMU is reached. Kept to the end of the run: what waits there wakes up later.
  struct Lines {
    std::optional<qmp::Client> client;
    std::optional<QemuErrors> errors;
    std::optional<SerialRelay> serial;
  };

  [[nodiscard]] std::optional<qmp::Client>& client() { return lines_.back().client; }

  [[nodiscard]] const plan::Plan& plan() const { return input_.prepared.plan; }

  /// From the sealed plan to the restored host. Whatever fails in between, the end is the same.
  asio::awaitable<ExitCode> live() {
    ExitCode code = ExitCode::failed;
    std::exception_ptr failure;
    try {
      const ExitCode ended = co_await start_and_wait();
      code = ended;
    } catch (...) {
      failure = std::current_exception();
    }
    if (failure) {
      code = report(failure);
    }
    const ExitCode undone = co_await undo();
    co_return worse(code, undone);
  }

  asio::awaitable<ExitCode> start_and_wait() {
    co_await seal();
    co_await change_host();
    bool again = true;
    while (again) {
      co_await spawn();
      const bool answers = co_await handshake();
      if (answers) {
        co_await let_run();
      }
      const ExitCode stuck = co_await wait_for_end();
      if (stuck != ExitCode::ended) {
        co_return stuck;
      }
      co_await drain();
      again = guest_reboots();
      if (again) {
        co_await restart();
      }
    }
    co_return conclude();
  }

  [[nodiscard]] bool guest_reboots() const {
    return plan().restarts && running_ && !ladder_.requested() && ending_.shutdown &&
           ending_.shutdown->reason == "guest-reset" && guardian_.qemu_exit() == base::ExitStatus{};
  }

  /// What is asked of us meanwhile ends it before the next QEMU starts.
  asio::awaitable<void> restart() {
    console_.say("the guest reboots: its devices are reset, and QEMU is started anew");
    forget_qemu();
    changing_ = true;
    const guardian::Request request = guardian::Restart{};
    const std::vector<int> none;
    GuardianLink::Answer answer = co_await guardian_.ask(request, none, kStepDeadline);
    static_cast<void>(expect<guardian::StatusReply>(answer));
    changing_ = false;
  }

  void forget_qemu() {
    ++life_;
    if (lines_.back().serial) {
      serial_ends_ = lines_.back().serial->release();
    }
    lines_.emplace_back();
    guardian_.forget_qemu();
    ladder_ = StopLadder(plan().deadlines);
    ending_ = {};
    fatal_call_.reset();
    threads_.clear();
    next_look_ = {};
    look_.cancel();
    realtime_ = calm_ = answers_ = running_ = unheard_ = false;
  }

  asio::awaitable<void> seal() {
    const Sealing sealing = sealing_of(input_.config, plan(), input_.files);
    GuardianLink::Answer answer =
        co_await guardian_.ask(sealing.request, sealing.fds, kSealDeadline);
    check_facts(plan(), expect<guardian::Sealed>(answer));
    console_.say("plan sealed");
  }

  asio::awaitable<void> change_host() {
    const std::vector<int> none;
    changing_ = true;
    for (std::size_t i = 0; i < plan().steps.size(); ++i) {
      if (ladder_.requested()) {
        throw Failure(ExitCode::ended, "stopped before QEMU was started");
      }
      const guardian::Request request = guardian::Apply{i};
      GuardianLink::Answer answer = co_await guardian_.ask(request, none, kStepDeadline);
      static_cast<void>(expect<guardian::Applied>(answer));
      console_.say(plan().steps[i]->describe());
    }
    changing_ = false;
  }

  asio::awaitable<void> spawn() {
    if (ladder_.requested()) {
      throw Failure(ExitCode::ended, "stopped before QEMU was started");
    }
    watch_usb();
    const guardian::Spawn request;
    const std::vector<int> none;
    GuardianLink::Answer answer = co_await guardian_.ask(request, none, kGuardianMargin);
    const auto spawned = expect<guardian::Spawned>(answer);
    const std::size_t expected = plan().qemu.serial_stdio ? 3 : 2;
    if (answer.fds.size() != expected) {
      throw guardian::ProtocolError("the guardian's descriptors do not match the plan");
    }
    Lines& lines = lines_.back();
    lines.client.emplace(io_, std::move(answer.fds[0]), qmp::Start::greeting);
    lines.client->on_event([this](const qmp::Event& event) { note(event); });
    lines.client->on_close([this, life = life_](const qmp::CloseReason& reason) {
      if (life == life_) {
        lose(reason);
      }
    });
    lines.errors.emplace(io_, std::move(answer.fds[1]), console_);
    if (plan().qemu.serial_stdio) {
      lines.serial.emplace(io_,
                           std::move(answer.fds[2]),
                           std::move(serial_ends_.input),
                           std::move(serial_ends_.output));
      terminal_.give_keyboard();
    }
    console_.say("QEMU started, paused: pid " + std::to_string(spawned.pid));
    asio::co_spawn(io_, climb(), asio::detached);  // ends with QEMU, at the latest at the undo
  }

  /// In a run as root, whose /dev has single nodes. From just before its start, with which the
  /// guardian looks.
  void watch_usb() {
    if (plan().qemu.root.user_namespace || plan().qemu.dev->usb.empty()) {
      return;
    }
    try {
      usb_watch_.emplace(io_, [this] {
        if (!guardian_.qemu_exit() && !undoing_) {
          guardian_.tell(guardian::UsbChanged{});
        }
      });
    } catch (const std::system_error& error) {
      console_.warn(std::string("USB devices that are plugged in later do not reach the guest: ") +
                    error.what());
    }
  }

  /// False when QEMU ended, or was ended, before it answered.
  asio::awaitable<bool> handshake() {
    try {
      const qmp::Greeting greeting = co_await client()->handshake(plan().deadlines.handshake);
      answers_ = true;
      console_.say("QEMU " + greeting.version + " answers");
      co_return true;
    } catch (const qmp::HandshakeError& failure) {
      ending_.handshake_failure = failure;
    }
    // A QEMU that failed by itself is about to end; one that hangs is ended.
    const std::function<bool()> is_over = [this] {
      return guardian_.qemu_exit() || ladder_.requested();
    };
    const auto until = steady_clock::now() + kEndByItself;
    co_await await_change(is_over, until);
    if (!guardian_.qemu_exit() && !ladder_.requested()) {
      ladder_.request(steady_clock::now(), false);
      next_rung_.cancel();
    }
    co_return false;
  }

  asio::awaitable<void> let_run() {
    if (ladder_.requested()) {
      co_return;  // asked to stop meanwhile: the guest need not begin
    }
    co_await place_threads();
    if (ladder_.requested()) {
      co_return;
    }
    const guardian::Request started = guardian::Started{};
    const std::vector<int> none;
    GuardianLink::Answer answer = co_await guardian_.ask(started, none, kStepDeadline);
    static_cast<void>(expect<guardian::StatusReply>(answer));
    running_ = true;
    ran_ = true;
    const qmp::Json nothing = qmp::Json::object();
    try {
      co_await client()->execute("cont", nothing, plan().deadlines.reply);
      console_.say("running");
      base::give_back_code();
      if (!calm_) {
        hurry_threads();
      }
      look_after_guest();
    } catch (const qmp::Interrupted&) {
      // QEMU died of it, or was ended meanwhile: how it ended says which.
    } catch (const qmp::Error& error) {
      throw Failure(ExitCode::qemu_did_not_start,
                    std::string("QEMU did not let the guest run: ") + error.what());
    }
  }

  /// Before the guest's first instruction, so that none runs elsewhere.
  asio::awaitable<void> place_threads() {
    const plan::Placement& placement = plan().placement;
    if (!placement.pinned()) {
      co_return;
    }
    co_await find_threads();
    if (threads_.empty()) {
      co_return;
    }
    // Also for a policy that is to begin later: what the kernel refuses is known now.
    co_await schedule(placement.realtime());
    if (placement.realtime() && !placement.from_start) {
      co_await schedule(false);
    }
    console_.say("vCPUs on the CPUs " + base::to_string(placement.guests()) +
                 ", QEMU's other threads on " + base::to_string(placement.rest));
  }

  asio::awaitable<void> find_threads() {
    const auto limit = plan().deadlines.reply;
    try {
      const std::vector<qmp::Vcpu> vcpus = co_await qmp::query_cpus(*client(), limit);
      threads_ = threads_by_index(vcpus);
    } catch (const qmp::Interrupted&) {
      // QEMU died of it, or was ended meanwhile: how it ended says which.
    } catch (const qmp::Error& error) {
      throw Failure(ExitCode::qemu_did_not_start,
                    std::string("QEMU does not tell its vCPUs' threads: ") + error.what());
    }
  }

  asio::awaitable<void> schedule(bool realtime) {
    if (guardian_.qemu_exit()) {
      co_return;
    }
    const guardian::Request request = guardian::Schedule{threads_, realtime};
    const std::vector<int> none;
    std::exception_ptr failure;
    try {
      GuardianLink::Answer answer = co_await guardian_.ask(request, none, kGuardianMargin);
      static_cast<void>(expect<guardian::StatusReply>(answer));
      realtime_ = realtime;
    } catch (const Failure&) {
      failure = std::current_exception();
    }
    if (failure) {
      // Its threads go just before it does, and then how it ended says why.
      const std::function<bool()> is_over = [this] { return guardian_.qemu_exit().has_value(); };
      const auto until = steady_clock::now() + kEndByItself;
      co_await await_change(is_over, until);
      if (!guardian_.qemu_exit() && !ladder_.requested() && !ending_.close) {
        std::rethrow_exception(failure);
      }
    }
  }

  static std::vector<pid_t> threads_by_index(std::vector<qmp::Vcpu> vcpus) {
    std::sort(vcpus.begin(), vcpus.end(), [](const qmp::Vcpu& a, const qmp::Vcpu& b) {
      return a.index < b.index;
    });
    std::vector<pid_t> threads;
    threads.reserve(vcpus.size());
    for (const qmp::Vcpu& vcpu : vcpus) {
      threads.push_back(vcpu.thread);
    }
    return threads;
  }

  /// For a policy that is to begin with the guest, or again after what took it away.
  void hurry_threads() {
    calm_ = false;
    if (plan().placement.realtime() && !realtime_ && !ladder_.requested() && !threads_.empty()) {
      realtime_ = true;
      console_.say("the vCPUs are real-time");
      guardian_.tell(guardian::Schedule{threads_, true});
    }
  }

  /// KVM's own threads for the guest come when it begins to run, its devices' interrupts when it
  /// finds them: soon, and after each reset. Then nothing new comes, and nothing wakes us any more.
  void look_after_guest() {
    constexpr std::chrono::milliseconds kFirst{250};
    if (plan().placement.pinned()) {
      const bool looks = std::exchange(next_look_, kFirst).count() != 0;
      looks ? static_cast<void>(look_.cancel())
            : asio::co_spawn(io_, place_what_comes(), asio::detached);
    }
  }

  asio::awaitable<void> place_what_comes() {
    constexpr std::chrono::milliseconds kLast{30000};
    boost::system::error_code error;
    auto token = asio::redirect_error(asio::use_awaitable, error);
    while (next_look_.count() != 0 && !guardian_.qemu_exit() && !guardian_.gone() && !undoing_) {
      const std::chrono::milliseconds pause = next_look_;
      next_look_ = std::min(pause * 2, kLast);
      look_.expires_after(pause);
      co_await look_.async_wait(token);
      // One that was cut short by a reset begins anew.
      if (!error && !guardian_.qemu_exit() && !undoing_) {
        guardian_.tell(guardian::Schedule{threads_, realtime_});
        if (plan().placement.interrupts) {
          guardian_.tell(guardian::PlaceInterrupts{});
        }
      }
      if (!error && pause == kLast && next_look_ == kLast) {
        next_look_ = {};
      }
    }
    base::give_back_code();
  }

  /// A guest that does nothing useful any more does not keep CPUs from the host.
  void calm_threads() {
    calm_ = true;
    if (std::exchange(realtime_, false) && !guardian_.qemu_exit() && !undoing_) {
      console_.say("the vCPUs are real-time no more");
      guardian_.tell(guardian::Schedule{threads_, false});
    }
  }

  /// Waits for QEMU's end, or for the word that it does not come.
  asio::awaitable<ExitCode> wait_for_end() {
    const std::function<bool()> is_over = [this] {
      return guardian_.qemu_exit() || guardian_.gone() || stuck_;
    };
    const auto never = steady_clock::time_point::max();
    co_await await_change(is_over, never);
    if (guardian_.qemu_exit()) {
      co_return ExitCode::ended;
    }
    if (stuck_) {
      co_return ExitCode::stuck;
    }
    console_.fail("the guardian died, and QEMU with it; type: vmlaunch recover " + plan().name);
    co_return ExitCode::host_not_restored;
  }

  /// Beside everything else, from QEMU's start to its end: ends it when somebody asks for that.
  asio::awaitable<void> climb() {
    boost::system::error_code error;
    auto token = asio::redirect_error(asio::use_awaitable, error);
    while (!guardian_.qemu_exit() && !guardian_.gone() && !stuck_ && !undoing_) {
      if (const auto action = ladder_.due(steady_clock::now())) {
        perform(*action);
        continue;
      }
      next_rung_.expires_at(ladder_.next().value_or(steady_clock::time_point::max()));
      co_await next_rung_.async_wait(token);
    }
  }

  /// Until it holds, or until then. What wakes it may be something else.
  asio::awaitable<void> await_change(const std::function<bool()>& holds,
                                     steady_clock::time_point until) {
    boost::system::error_code error;
    auto token = asio::redirect_error(asio::use_awaitable, error);
    while (!holds() && steady_clock::now() < until) {
      changed_.expires_at(until);
      co_await changed_.async_wait(token);
    }
  }

  /// Something happened that await_change or climb must see.
  void wake() {
    changed_.cancel();
    next_rung_.cancel();
  }

  void perform(StopLadder::Action action) {
    calm_threads();
    const plan::Deadlines& deadlines = plan().deadlines;
    switch (action) {
      case StopLadder::Action::power_button:
        console_.say("power button pressed; waiting for the guest to shut down, at most " +
                     base::to_string(deadlines.powerdown) + "; again to hurry");
        command("system_powerdown");
        break;
      case StopLadder::Action::quit:
        console_.say("QEMU is told to quit");
        answers_ ? command("quit") : guardian_.tell(guardian::Signal{SIGTERM});
        break;
      case StopLadder::Action::terminate:
        console_.warn("QEMU does not quit: SIGTERM");
        guardian_.tell(guardian::Signal{SIGTERM});
        break;
      case StopLadder::Action::kill:
        console_.warn("QEMU is killed");
        guardian_.tell(guardian::Signal{SIGKILL});
        break;
      case StopLadder::Action::give_up:
        console_.fail(
            "QEMU does not end even when killed: it is stuck in the kernel; type: ps -o "
            "pid,stat,wchan,args -C " +
            plan().name);
        stuck_ = true;
        client()->close();  // a handshake that still waits ends
        wake();
        break;
    }
  }

  /// Detached: whether it worked shows in QEMU's end, and the ladder goes on if it did not.
  void command(const char* name) {
    if (client()) {
      asio::co_spawn(io_,
                     client()->execute(name, qmp::Json::object(), plan().deadlines.reply),
                     asio::detached);
    }
  }

  /// Who was started by nohup is to live on without its terminal.
  static bool hang_up_ignored() {
    struct sigaction now {};
    return ::sigaction(SIGHUP, nullptr, &now) == 0 && now.sa_handler == SIG_IGN;
  }

  void watch_signals() {
    signals_.async_wait([this](const boost::system::error_code& error, int signal) {
      if (!error) {
        console_.say(base::signal_name(signal) + ": stopping");
        asked_ = true;
        if (changing_ && !ladder_.requested()) {
          guardian_.tell(guardian::Stop{});
        }
        ladder_.request(steady_clock::now(), running_ && answers_);
        next_rung_.cancel();
        watch_signals();
      }
    });
  }

  void note(const qmp::Event& event) {
    const bool said = ending_.shutdown.has_value();
    ending_.note(event);
    if (ending_.shutdown && !said) {
      asio::co_spawn(io_, hurry_end(), asio::detached);
    }
    if (event.name == "BLOCK_IO_ERROR") {
      const std::string device = qmp::text_of(event.data, "device");
      console_.warn("the guest's " + (device.empty() ? "disk" : device) + " fails (" +
                    qmp::text_of(event.data, "reason") + ")");
    } else if (event.name == "STOP" && !ending_.shutdown) {
      calm_threads();
      console_.warn("QEMU has paused the guest; what can be done now is to stop it");
    } else if (event.name == "GUEST_PANICKED") {
      calm_threads();
      console_.warn("the guest panicked");
    } else if (event.name == "RESET" && running_) {
      hurry_threads();
      look_after_guest();
    } else if (event.name == "RESUME" && running_) {
      hurry_threads();
    } else if (event.name == "WATCHDOG") {
      calm_threads();
    }
  }

  void note(const guardian::CallRefused& refused) {
    if (refused.what.outcome == sandbox::RefusedCall::Outcome::ended) {
      fatal_call_ = fatal_call_.value_or(refused);
    } else {
      console_.warn(describe(refused));
    }
  }

  /// A QEMU that is about to end has not all its threads any more.
  void note_refusal(const std::string& why) {
    if (!ladder_.requested() && !ending_.shutdown && !ending_.close && !guardian_.qemu_exit()) {
      console_.warn(why);
    }
  }

  /// The monitor is gone, as a rule with QEMU.
  void lose(const qmp::CloseReason& reason) {
    ending_.close = reason;
    calm_threads();
    wake();
    if (std::exchange(answers_, false)) {
      asio::co_spawn(io_, tell_of_loss(), asio::detached);
    }
  }

  /// A device that does not let go can hold a QEMU that ends by itself.
  asio::awaitable<void> hurry_end() {
    const unsigned life = life_;
    const base::Milliseconds limit = plan().deadlines.handshake + kEndAfterWord;
    asio::steady_timer timer(io_, limit);
    co_await timer.async_wait(asio::use_awaitable);
    if (life == life_ && !guardian_.qemu_exit() && !guardian_.gone() && !ladder_.requested()) {
      console_.warn("QEMU said that it ends, and did not within " + base::to_string(limit));
      ladder_.request(steady_clock::now(), false);
      next_rung_.cancel();
    }
  }

  asio::awaitable<void> tell_of_loss() {
    const unsigned life = life_;
    asio::steady_timer timer(io_, kEndByItself);
    co_await timer.async_wait(asio::use_awaitable);
    if (life != life_) {
      co_return;
    }
    // After such a word it is about to end, which takes a while where much memory is given back.
    const bool said = ending_.shutdown || ending_.panicked || ending_.watchdog_poweroff;
    unheard_ = !guardian_.qemu_exit() && !said;
    if (unheard_ && !ladder_.requested()) {
      console_.warn("the connection to QEMU is lost (" + ending_.close->detail +
                    "): the guest seems to run on and can be shut down from inside; to end QEMU "
                    "by SIGTERM, type: kill " +
                    std::to_string(::getpid()));
    }
  }

  /// What QEMU said before it ended may be read after its end is known.
  asio::awaitable<void> drain() {
    const std::function<bool()> is_read = [this] { return ending_.close.has_value(); };
    const auto until = steady_clock::now() + kDrain;
    co_await await_change(is_read, until);
    Lines& lines = lines_.back();
    co_await lines.errors->drain(kDrain);
    if (lines.serial) {
      co_await lines.serial->drain(kDrain);
    }
  }

  ExitCode conclude() {
    ending_.status = *guardian_.qemu_exit();
    ending_.errors = lines_.back().errors->tail();
    if (ending_.handshake_failure && !asked_) {
      const std::string words = describe_end(ending_, fatal_call_);
      throw Failure(ExitCode::qemu_did_not_start, words + name_descriptors(words));
    }
    const Verdict verdict = judge_run();
    if (verdict.code == ExitCode::ended) {
      console_.say(verdict.text);
    } else {
      console_.fail(verdict.text);
    }
    return verdict.code;
  }

  [[nodiscard]] Verdict judge_run() const {
    if (!running_) {
      return {ExitCode::ended, "stopped before the guest ran"};
    }
    if (unheard_ && !ladder_.had_to_kill() && ending_.status == base::ExitStatus{}) {
      return {ExitCode::ended, "QEMU ended, some time after its connection was lost"};
    }
    return judge(ending_, ladder_.had_to_kill(), ladder_.hurried(), fatal_call_);
  }

  /// QEMU knows files by descriptor; a person by name.
  [[nodiscard]] std::string name_descriptors(const std::string& words) const {
    std::string names;
    for (const plan::FileUse& file : plan().files) {
      for (const char* folder : {"/dev/fdset/", "/proc/self/fd/", "/vm/"}) {
        const std::string shown = folder + std::to_string(file.fd);
        if (words.find(shown) != std::string::npos) {
          names += "\n" + shown + " is the " + file.purpose + ", " + file.path;
        }
      }
    }
    return names;
  }

  /// The reverse of everything, whatever happened before.
  asio::awaitable<ExitCode> undo() {
    undoing_ = true;
    changing_ = false;
    if (!ran_) {
      guardian::remove_made_files(plan(), input_.files.files);
    }
    if (guardian_.gone()) {
      co_return ExitCode::host_not_restored;
    }
    const plan::Deadlines& deadlines = plan().deadlines;
    const guardian::Undo request{ran_};
    const std::vector<int> none;
    const auto limit = deadlines.terminate + deadlines.kill + kGuardianMargin +
                       kStepDeadline * static_cast<int>(plan().steps.size());
    std::exception_ptr failure;
    try {
      GuardianLink::Answer answer = co_await guardian_.ask(request, none, limit);
      co_return conclude_undo(expect<guardian::Done>(answer));
    } catch (...) {
      failure = std::current_exception();
    }
    co_return report(failure);
  }

  ExitCode conclude_undo(const guardian::Done& done) {
    for (const std::string& leftover : done.leftovers) {
      console_.fail("not put back: " + leftover);
    }
    if (done.code == ExitCode::ended) {
      console_.say("host restored");
    } else {
      console_.fail("the host is not as it was" +
                    (done.again ? "; type: vmlaunch recover " + plan().name : ""));
    }
    return done.code;
  }

  ExitCode reap_guardian() {
    if (!input_.guardian.await_end()) {
      console_.fail("the guardian does not end; type: ps -o pid,stat,wchan,args -C vmlaunch-guard");
      return ExitCode::stuck;
    }
    return ExitCode::ended;
  }

  template <typename Wanted>
  static Wanted expect(GuardianLink::Answer& answer) {
    if (auto* reply = std::get_if<Wanted>(&answer.reply)) {
      return std::move(*reply);
    }
    throw guardian::ProtocolError("the guardian answered something else");
  }

  ExitCode report(const std::exception_ptr& error) {
    try {
      std::rethrow_exception(error);
    } catch (const Failure& failure) {
      for (const std::string& line : base::split(failure.what(), '\n')) {
        failure.code() == ExitCode::ended ? console_.say(line) : console_.fail(line);
      }
      return failure.code();
    } catch (const std::exception& exception) {
      console_.fail(exception.what());
      return ExitCode::failed;
    }
  }

  // First, so that it goes last: handlers that are still queued at the end are destroyed with it.
  asio::io_context io_{1};
  RunInput input_;
  Terminal& terminal_;
  Console& console_;
  asio::signal_set signals_;
  asio::steady_timer changed_;    ///< what await_change waits on
  asio::steady_timer next_rung_;  ///< what climb waits on
  asio::steady_timer look_;       ///< what place_what_comes waits on
  GuardianLink guardian_;
  StopLadder ladder_;
  std::deque<Lines> lines_;        ///< the last are those of the QEMU that is there
  SerialRelay::Ends serial_ends_;  ///< of the terminal, when no relay has them
  unsigned life_ = 0;              ///< how many QEMUs there were before
  std::optional<UsbWatch> usb_watch_;
  qmp::Ending ending_;
  std::optional<guardian::CallRefused> fatal_call_;  ///< what QEMU was ended for
  std::vector<pid_t> threads_;                       ///< of the vCPUs, by their numbers
  bool realtime_ = false;                            ///< they have the plan's policy
  bool calm_ = false;                                ///< and were told to have it no more
  std::chrono::milliseconds next_look_{0};           ///< for what has come; 0: there is none
  bool asked_ = false;                               ///< somebody asked for the end
  bool changing_ = false;                            ///< the guardian is at the plan's steps
  bool answers_ = false;
  bool running_ = false;
  bool ran_ = false;      ///< this QEMU's guest, or one before
  bool unheard_ = false;  ///< QEMU lived on after the connection was lost
  bool stuck_ = false;
  bool undoing_ = false;
};

}  // namespace

void hold_stop_signals() {
  const sigset_t signals = stop_signals();
  static_cast<void>(::sigprocmask(SIG_BLOCK, &signals, nullptr));
}

ExitCode run_vm(RunInput input, Terminal& terminal, Console& console) {
  return Run(std::move(input), terminal, console).run();
}

}  // namespace vmlaunch::launcher::run
