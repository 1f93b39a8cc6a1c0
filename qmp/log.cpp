#include "qmp/log.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace vmlaunch::qmp {

namespace {

using Message = nlohmann::ordered_json;  // shown as it was sent

constexpr std::size_t kShown = 4096;
constexpr const char* kHidden = "(hidden)";

/// Names of members that are secret wherever they stand.
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
  return std::find(kSecretNames.begin(), kSecretNames.end(), name) != kSecretNames.end();
}

bool hide(Message& object, const char* key) {
  const bool there = object.contains(key);
  if (there) {
    object[key] = kHidden;
  }
  return there;
}

/// At any depth: a message has at most as many levels as the parser takes.
bool hide_named(Message& value) {
  bool hidden = false;
  for (auto member = value.begin(); member != value.end(); ++member) {
    if (value.is_object() && is_secret(member.key())) {
      *member = kHidden;
      hidden = true;
    } else if (member->is_structured()) {
      hidden = hide_named(*member) || hidden;
    }
  }
  return hidden;
}

/// True if there was something.
bool hide_arguments(const std::string& command, Message& arguments) {
  bool hidden = hide_named(arguments);
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

}  // namespace

void Log::tell_sent(std::string_view message) {
  // After a take-over the first one resets QEMU's parser before it begins.
  message.remove_prefix(std::min(message.find('{'), message.size()));
  Message shown = Message::parse(message, nullptr, false);
  const auto arguments = shown.find("arguments");
  const bool secret =
      arguments != shown.end() && hide_arguments(word_of(shown, "execute"), *arguments);
  if (secret && shown.contains("id")) {
    secret_.insert(shown["id"].get<std::uint64_t>());
  }
  tell(Direction::sent, shown);
}

void Log::tell_received(std::string_view message) {
  Message shown = Message::parse(message, nullptr, false);
  const auto id = shown.find("id");
  if (id != shown.end() && id->is_number_unsigned() &&
      secret_.erase(id->get<std::uint64_t>()) > 0) {
    hide(shown, "return");
    hide(shown, "error");  // it may quote what it refuses
  }
  tell(Direction::received, shown);
}

void Log::tell(Direction direction, const Message& message) {
  const LogSink sink = sink_;  // it may destroy the client and thereby itself
  if (message.is_discarded()) {
    sink(direction, "(no JSON)");
    return;
  }
  std::string text = message.dump(-1, ' ', true);
  if (text.size() > kShown) {
    const std::string size = std::to_string(text.size());
    text.resize(kShown);
    text += "... of " + size + " bytes";
  }
  sink(direction, text);
}

}  // namespace vmlaunch::qmp
