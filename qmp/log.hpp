#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

namespace vmlaunch::qmp {

enum class Direction { sent, received };

/// Gets each message as one line of ASCII without what nobody but its receiver is to know, and
/// without the end of what is very long. Must not throw.
using LogSink = std::function<void(Direction direction, const std::string& message)>;

/// What is said on a connection, for people. Costs nothing without a sink: no message is looked at.
///
/// Hidden are passwords, the data of secrets, what is typed into the guest and lines for the human
/// monitor, with the answers to all of these.
class Log {
 public:
  void to(LogSink sink) { sink_ = std::move(sink); }
  explicit operator bool() const { return sink_ != nullptr; }

  void sent(std::string_view message) {
    if (sink_) {
      tell_sent(message);
    }
  }
  void received(std::string_view message) {
    if (sink_) {
      tell_received(message);
    }
  }

 private:
  void tell_sent(std::string_view message);
  void tell_received(std::string_view message);
  void tell(Direction direction, const nlohmann::ordered_json& message);

  LogSink sink_;
  std::set<std::uint64_t> secret_;  // commands whose answers are hidden
};

}  // namespace vmlaunch::qmp
