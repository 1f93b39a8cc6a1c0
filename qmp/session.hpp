#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "qmp/encoding.hpp"
#include "qmp/errors.hpp"

namespace vmlaunch::qmp {

/// What a connection finds at the other end.
enum class Start {
  greeting,   ///< A monitor that nobody has spoken to on this connection.
  take_over,  ///< A monitor in any state: somebody else used the connection and is gone.
};

struct Greeting {
  std::string version;  ///< Of QEMU, "7.2.22"; empty after a take-over.
  bool offers_oob = false;
};

/// Commands may be sent from now on.
struct Negotiated {};

struct Event {
  std::string name;            ///< Not a closed set.
  Json data = Json::object();  ///< An object; empty if the event has no data.
  std::int64_t seconds = -1;   ///< Since 1970, when it was emitted; -1 if QEMU's clock failed.
  std::int64_t microseconds = -1;
};

struct Reply {
  Id id = 0;
  std::variant<Json, CommandError> outcome;
};

/// A message that concerns nobody; Session::counters() says of which kind.
struct Ignored {};

using Message = std::variant<Greeting, Negotiated, Event, Reply, Ignored>;

/// The protocol of one connection without its bytes and its time: what a message means, and to
/// which command it belongs.
class Session {
 public:
  enum class State { greeting_wait, negotiating, running, closed };

  /// QEMU delivers the answer to a lost client's command to the next client, so ids must differ
  /// between connections too.
  struct Ids {
    Id capabilities = 0;  ///< Long: until its answer everything else is somebody else's.
    Id first = 0;         ///< Short, because every byte of a command costs time.
  };
  [[nodiscard]] static Ids random_ids();

  /// Messages that were dropped.
  struct Counters {
    std::uint64_t invalid = 0;       ///< Not JSON, or not a message of QMP.
    std::uint64_t late_replies = 0;  ///< To abandoned commands.
    std::uint64_t unknown_ids = 0;   ///< Replies to nobody, such as a previous client's.
  };

  struct Command {
    Id id = 0;
    std::string bytes;
  };

  /// What the caller of a command says of it beside its name and arguments.
  struct Manner {
    Band band = Band::in_order;
    bool carries_fds = false;  ///< descriptors go with its first byte
  };

  /// Commands in order that QEMU takes off the socket before their turn, one of them in execution:
  /// with one more it reads no further, and out-of-band commands stand in the queue with all others
  /// (QMP_REQ_QUEUE_LEN_MAX in monitor/qmp.c).
  static constexpr std::size_t kWindow = 8;

  explicit Session(Start start, Ids ids = random_ids());

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] const Counters& counters() const { return counters_; }

  /// The bytes to send as soon as the state is `negotiating`.
  [[nodiscard]] std::string opening() const;

  /// Whether out-of-band commands can be sent: known once the session runs.
  [[nodiscard]] bool has_oob() const { return state_ == State::running && oob_; }

  /// Makes a command; its bytes must be sent whole, as soon as `may_send` says so. `arguments` is
  /// an object or null. Throws std::invalid_argument for what QEMU would answer by an error without
  /// an id or has no band for, and std::logic_error unless running; neither leaves a trace.
  [[nodiscard]] Command encode(const std::string& name, const Json& arguments, Manner manner);
  [[nodiscard]] Command encode(const std::string& name, const Json& arguments) {
    return encode(name, arguments, {});
  }

  /// Whether it is this command's turn: those in order go in the order of the calls, as many as
  /// QEMU reads at once, and one with descriptors after the last such one was answered, since QEMU
  /// keeps the descriptors of one message and reads ahead.
  [[nodiscard]] bool may_send(Id id) const;

  /// The command in order that QEMU's main loop is at: the oldest that was sent and not answered.
  [[nodiscard]] std::optional<Id> at_work() const;

  /// Its first byte is about to be sent.
  void note_sent(Id id);

  /// Nobody waits for this command any more. Its place in the order of replies stays.
  void abandon(Id id);

  /// Not one byte of this command was sent, and none will be.
  void withdraw(Id id);

  /// Takes the text of one object. Never throws for what a peer can send.
  [[nodiscard]] Message receive(std::string_view text);

  /// Ends the session and gives the commands whose outcome somebody waits for. From the second call
  /// on nothing changes and nothing is given.
  std::vector<Id> close(CloseReason reason);

  /// Of the first close.
  [[nodiscard]] const std::optional<CloseReason>& close_reason() const { return close_reason_; }

 private:
  struct Pending {
    std::string command;
    Manner manner;
    bool sent = false;
    bool abandoned = false;
    bool passed_over = false;  // a younger command was answered, so the reply was lost
  };

  [[nodiscard]] Message receive_event(Json& message);
  [[nodiscard]] Message receive_greeting(const Json& message);
  [[nodiscard]] Message receive_reply(Json& message);
  [[nodiscard]] Message receive_capabilities_reply(const Json& message);
  [[nodiscard]] Message settle(std::map<Id, Pending>::iterator found, Json& message);
  [[nodiscard]] std::map<Id, Pending>::iterator sent_with(Id id);
  [[nodiscard]] std::map<Id, Pending>::iterator named_in(std::string_view text);
  [[nodiscard]] Message ignore(std::uint64_t& counter);

  State state_;
  Start start_;
  Ids ids_;
  Id next_id_;
  bool oob_ = false;  // the greeting offers it
  // In the order of issue, because ids only grow. For commands in order that is the order of QEMU's
  // replies too.
  std::map<Id, Pending> pending_;
  Counters counters_;
  std::optional<CloseReason> close_reason_;
};

}  // namespace vmlaunch::qmp
