#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace vmlaunch::qmp {

/// How a connection ended. Whether that was in order is the caller's verdict: after a SHUTDOWN
/// event both `eof` and `reset` are a normal end.
struct CloseReason {
  enum class Kind {
    eof,       ///< QEMU closed the connection.
    reset,     ///< QEMU closed it without having read all we sent, or a write failed.
    local,     ///< This side closed it.
    protocol,  ///< What came was not QMP.
  };

  Kind kind = Kind::eof;
  std::string detail;  ///< A clause such as "QEMU closed the connection".

  bool operator==(const CloseReason&) const = default;
};

/// What everything thrown by this library for a reason outside the program derives from.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The peer sent what no QEMU sends; the connection is of no more use.
class ProtocolError : public Error {
 public:
  using Error::Error;
};

/// The connection did not become usable; it is closed by then.
class HandshakeError : public Error {
 public:
  enum class Cause { no_greeting, not_qmp, no_answer, refused, closed };

  HandshakeError(Cause cause, const std::string& text) : Error(text), cause_(cause) {}

  [[nodiscard]] Cause cause() const { return cause_; }

 private:
  Cause cause_;
};

/// The class of an answer that is no JSON, as QEMU's numbers can make it: whether it was an error
/// is not known.
inline constexpr const char* kUnreadableAnswer = "UnreadableAnswer";

/// QEMU answered a command with an error, or with what cannot be read (kUnreadableAnswer).
class CommandError : public Error {
 public:
  CommandError(std::string command, std::string error_class, std::string description);

  [[nodiscard]] const std::string& command() const { return command_; }
  /// "GenericError", "CommandNotFound", "DeviceNotFound", … : not a closed set.
  [[nodiscard]] const std::string& error_class() const { return error_class_; }
  /// For people: QEMU changes these texts between versions.
  [[nodiscard]] const std::string& description() const { return description_; }

 private:
  std::string command_;
  std::string error_class_;
  std::string description_;
};

/// No answer in time. The late answer to a command that was sent is dropped.
class Timeout : public Error {
 public:
  /// What a look out of band has found meanwhile.
  enum class Cause {
    unknown,  ///< nothing: it was not made, or could not be sent
    blocked,  ///< QEMU lives, and its main loop does not come to the command
    silent,   ///< nothing of QEMU answers: it is stopped, or hangs
  };

  Timeout(const std::string& text, Cause cause, bool sent)
      : Error(text), cause_(cause), sent_(sent) {}

  [[nodiscard]] Cause cause() const { return cause_; }
  /// False: no byte of the command was sent, and none will be. Otherwise QEMU may still execute it.
  [[nodiscard]] bool sent() const { return sent_; }

 private:
  Cause cause_;
  bool sent_;
};

/// The connection ended before the answer.
class Interrupted : public Error {
 public:
  Interrupted(const std::string& text, CloseReason reason, bool sent)
      : Error(text), reason_(std::move(reason)), sent_(sent) {}

  [[nodiscard]] const CloseReason& reason() const { return reason_; }
  /// False: no byte of the command was sent. Otherwise QEMU may have executed it.
  [[nodiscard]] bool sent() const { return sent_; }

 private:
  CloseReason reason_;
  bool sent_;
};

}  // namespace vmlaunch::qmp
