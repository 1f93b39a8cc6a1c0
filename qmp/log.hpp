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
/// without the end of what is longer than 4 KiB; of one of more than 256 KiB the length alone. Must
/// not throw.
using LogSink = std::function<void(Direction direction, const std::string& message)>;

/// What is said on a connection, for people. Costs nothing without a sink: no message is looked at.
///
/// Hidden are passwords, also in URLs and in "json:{...}" names of files, the data of secrets, what
/// is typed into the guest and lines for the human monitor, with the answers to all of these. The
/// same goes for answers without an id, or to commands that were not told here.
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
  void tell(Direction direction, std::string_view message, const nlohmann::ordered_json& shown);

  LogSink sink_;
  std::set<std::uint64_t> harmless_;  // commands under way whose answers are shown
};

}  // namespace vmlaunch::qmp
