#include "qmp/log.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace vmlaunch::qmp {

namespace {

using Message = nlohmann::ordered_json;  // shown as it was sent

constexpr std::size_t kShown = 4096;
/// Longer ones are not looked into: an object that keeps the order of its members takes time that
/// grows with the square of their number.
constexpr std::size_t kParsed = std::size_t{256} * 1024;
constexpr std::size_t kDeepest = 1024;   // to print a value recurses
constexpr std::size_t kUnderWay = 4096;  // commands whose answers may be shown
constexpr const char* kHidden = "(hidden)";
constexpr std::string_view kJsonName = "json:";

/// Names of members that are secret wherever they stand, also as the last part of "file.password".
constexpr std::array<std::string_view, 3> kSecretNames = {"password", "passwd", "cookie"};

/// What else a command may have that is secret.
constexpr std::array<std::pair<std::string_view, const char*>, 4> kSecretArguments = {{
    {"human-monitor-command", "command-line"},  // can hold any of the others
    {"input-send-event", "events"},
    {"ringbuf-write", "data"},
    {"send-key", "keys"},
}};

std::string word_of(const Message& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

bool is_secret(std::string_view name) {
  name.remove_prefix(name.rfind('.') + 1);  // all of it without one
  return std::find(kSecretNames.begin(), kSecretNames.end(), name) != kSecretNames.end();
}

bool hide(Message& object, const char* key) {
  const bool there = object.contains(key);
  if (there) {
    object[key] = kHidden;
  }
  return there;
}

/// "scheme://user:password@host", as often as there is one.
std::string without_passwords(std::string_view text) {
  constexpr std::string_view kScheme = "://";
  std::string shown;
  shown.reserve(text.size());
  for (std::size_t at = text.find(kScheme); at != std::string_view::npos; at = text.find(kScheme)) {
    shown += text.substr(0, at + kScheme.size());
    text.remove_prefix(at + kScheme.size());
    // The last @ is the one, since a password may have others.
    const std::string_view authority = text.substr(0, text.find_first_of("/? \t\r\n"));
    const std::size_t host = authority.rfind('@');
    const std::size_t password = authority.find(':');
    if (host != std::string_view::npos && password < host) {
      shown += text.substr(0, password + 1);
      shown += "***";
      text.remove_prefix(host);
    }
  }
  return shown += text;
}

bool hide_in(Message& value, std::size_t depth);

/// Also in QEMU's names for files with options, "json:{...}", and where a text quotes one.
bool hide_in_text(std::string& text, std::size_t depth) {
  const std::size_t at = text.starts_with(kJsonName) ? 0 : text.find("json:{");
  const std::string before = text.substr(0, at);
  std::string shown = without_passwords(before);
  bool hidden = shown != before;
  if (at != std::string::npos) {
    const std::size_t begin = at + kJsonName.size();
    const std::size_t end = std::max(text.rfind('}') + 1, begin);
    Message options = Message::parse(text.substr(begin, end - begin), nullptr, false);
    const bool unknown = options.is_discarded();
    hidden = unknown || hide_in(options, depth + 1) || hidden;
    shown += kJsonName;
    shown += unknown ? "***" : options.dump() + without_passwords(text.substr(end));
  }
  text = std::move(shown);
  return hidden;
}

/// Whatever is secret by its name or form. True if there was something, as below.
bool hide_in(Message& value, std::size_t depth) {
  if (value.is_string()) {
    return hide_in_text(value.get_ref<std::string&>(), depth);
  }
  if (value.is_structured() && depth >= kDeepest) {
    value = kHidden;
    return true;
  }
  bool hidden = false;
  for (auto element = value.begin(); value.is_structured() && element != value.end(); ++element) {
    if (value.is_object() && is_secret(element.key())) {
      *element = kHidden;
      hidden = true;
    } else {
      hidden = hide_in(*element, depth + 1) || hidden;
    }
  }
  return hidden;
}

/// What is secret because of the command that it is for.
bool hide_arguments(const std::string& command, Message& arguments) {
  bool hidden = false;
  for (const auto& [name, argument] : kSecretArguments) {
    hidden = (name == command && hide(arguments, argument)) || hidden;
  }
  if (command == "object-add" && word_of(arguments, "qom-type").starts_with("secret")) {
    hidden = hide(arguments, "data") || hidden;
  }
  const std::string property = word_of(arguments, "property");
  if (is_secret(property) || property == "data") {  // qom-get, qom-set
    hide(arguments, "value");
    hidden = true;
  }
  return hidden;
}

Message parse(std::string_view text) {
  return text.size() > kParsed ? Message() : Message::parse(text, nullptr, false);
}

std::optional<std::uint64_t> id_of(const Message& message) {
  const auto id = message.find("id");
  return id != message.end() && id->is_number_unsigned() ? std::optional(id->get<std::uint64_t>())
                                                         : std::nullopt;
}

}  // namespace

void Log::tell_sent(std::string_view message) {
  // After a take-over the first one resets QEMU's parser before it begins.
  message.remove_prefix(std::min(message.find('{'), message.size()));
  Message shown = parse(message);
  const char* key = shown.contains("exec-oob") ? "exec-oob" : "execute";
  const std::string command = word_of(shown, key);
  bool secret = hide_in(shown, 0);
  if (const auto arguments = shown.find("arguments"); arguments != shown.end()) {
    secret = hide_arguments(command, *arguments) || secret;
  }
  const auto id = id_of(shown);
  if (id && !secret) {
    harmless_.insert(*id);
    if (harmless_.size() > kUnderWay) {
      harmless_.erase(harmless_.begin());  // the oldest, which was never answered
    }
  }
  tell(Direction::sent, message, shown);
}

void Log::tell_received(std::string_view message) {
  Message shown = parse(message);
  const auto id = id_of(shown);
  hide_in(shown, 0);
  // It may be for anything that was ever said to this monitor, and an error may quote that.
  if (!id || harmless_.erase(*id) == 0) {
    hide(shown, "return");
    hide(shown, "error");
  }
  tell(Direction::received, message, shown);
}

void Log::tell(Direction direction, std::string_view message, const Message& shown) {
  const LogSink sink = sink_;  // it may destroy the client and thereby itself
  if (message.size() > kParsed) {
    sink(direction, "(" + std::to_string(message.size()) + " bytes)");
    return;
  }
  if (shown.is_discarded()) {
    sink(direction, "(no JSON)");
    return;
  }
  std::string text = shown.dump(-1, ' ', true);
  if (text.size() > kShown) {
    const std::string size = std::to_string(text.size());
    text.resize(kShown);
    text += "... of " + size + " bytes";
  }
  sink(direction, text);
}

}  // namespace vmlaunch::qmp
