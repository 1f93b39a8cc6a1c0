#include "qmp/session.hpp"

#include <algorithm>
#include <random>
#include <stdexcept>
#include <utility>

#include "base/text.hpp"
#include "qmp/encoding.hpp"
#include "qmp/values.hpp"

namespace vmlaunch::qmp {

namespace {

constexpr const char* kCapabilities = "qmp_capabilities";

std::optional<Id> id_of(const Json& message) {
  const Json* id = member(message, "id");
  if (id == nullptr || !id->is_number_unsigned()) {
    return std::nullopt;
  }
  return id->get<Id>();
}

CommandError error_of(const Json& message, const std::string& command) {
  const Json& error = message.at("error");
  const std::string error_class = text_of(error, "class");
  return {command, error_class.empty() ? "GenericError" : error_class, text_of(error, "desc")};
}

std::string version_of(const Json& greeting) {
  std::string version;
  const Json* numbers = member(greeting, "version");
  numbers = numbers == nullptr ? nullptr : member(*numbers, "qemu");
  for (const char* part : {"major", "minor", "micro"}) {
    const Json* number = numbers == nullptr ? nullptr : member(*numbers, part);
    if (number == nullptr || !number->is_number_unsigned()) {
      return "";
    }
    version += (version.empty() ? "" : ".") + number->dump();
  }
  return version;
}

}  // namespace

Session::Ids Session::random_ids() {
  std::random_device source;
  std::uniform_int_distribution<Id> any_long(1000000000000000, (Id{1} << 53U) - 1);
  // Seven digits suffice for the first million commands.
  std::uniform_int_distribution<Id> any_short(1000000, 8999999);
  return {any_long(source), any_short(source)};
}

Session::Session(Start start, Ids ids)
    : state_(start == Start::take_over ? State::negotiating : State::greeting_wait),
      start_(start),
      ids_(ids),
      next_id_(ids.first) {}

std::string Session::opening() const {
  // 0xFF resets QEMU's parser, which may hold half a command of the client that is gone.
  const char* resync = start_ == Start::take_over ? "\xff" : "";
  const Json enable = oob_ ? Json{{"enable", {"oob"}}} : Json();
  return resync + encode_command(kCapabilities, enable, ids_.capabilities);
}

Session::Command Session::encode(const std::string& name, const Json& arguments, Manner manner) {
  if (state_ != State::running) {
    throw std::logic_error("Command " + name + " was given to a QMP session that is not running");
  }
  if (manner.band == Band::out_of_band && !oob_) {
    throw std::invalid_argument("Cannot send command " + base::printable(name) +
                                ": this monitor has no out-of-band commands");
  }
  Command command{next_id_, encode_command(name, arguments, next_id_, manner.band)};
  pending_.emplace(next_id_++, Pending{name, manner});
  return command;
}

bool Session::may_send(Id id) const {
  const auto found = pending_.find(id);
  if (found == pending_.end() || found->second.manner.band == Band::out_of_band) {
    return true;
  }
  const bool carries_fds = found->second.manner.carries_fds;
  std::size_t under_way = 0;
  for (auto earlier = found; earlier != pending_.begin();) {
    const Pending& pending = (--earlier)->second;
    if (pending.manner.band == Band::out_of_band || pending.passed_over) {
      continue;
    }
    ++under_way;
    if (!pending.sent || (oob_ && under_way == kWindow) ||
        (carries_fds && pending.manner.carries_fds)) {
      return false;
    }
    if (!oob_ && !carries_fds) {
      return true;  // it was sent, so those before it were
    }
  }
  return true;
}

void Session::note_sent(Id id) {
  if (const auto found = pending_.find(id); found != pending_.end()) {
    found->second.sent = true;
  }
}

void Session::abandon(Id id) {
  const auto found = pending_.find(id);
  if (found == pending_.end()) {
    return;
  }
  if (found->second.passed_over) {
    pending_.erase(found);
  } else {
    found->second.abandoned = true;
  }
}

void Session::withdraw(Id id) {
  pending_.erase(id);
}

Message Session::receive(std::string_view text) {
  if (state_ == State::closed) {
    return Ignored{};
  }
  Json message = Json::parse(text.begin(), text.end(), nullptr, false);
  // QEMU prints doubles by "%.17g", so "inf" and "nan" are possible: one message is lost then, not
  // the connection.
  if (!message.is_object()) {
    ++counters_.invalid;
    Json unreadable = {
        {"error", {{"class", kUnreadableAnswer}, {"desc", "QEMU's answer is not valid JSON"}}}};
    const auto found = named_in(text);
    return found == pending_.end() ? Ignored{} : settle(found, unreadable);
  }
  if (message.contains("event")) {
    return receive_event(message);
  }
  if (message.contains("QMP")) {
    return receive_greeting(message);
  }
  if (message.contains("return") || message.contains("error")) {
    return receive_reply(message);
  }
  return ignore(counters_.invalid);
}

// In every state: events can precede the greeting and the answer to qmp_capabilities.
Message Session::receive_event(Json& message) {
  Json& name = message["event"];
  if (!name.is_string()) {
    return ignore(counters_.invalid);
  }
  Event event;
  event.name = std::move(name.get_ref<std::string&>());
  if (const auto data = message.find("data"); data != message.end() && data->is_object()) {
    event.data = std::move(*data);
  }
  if (const Json* timestamp = member(message, "timestamp"); timestamp != nullptr) {
    event.seconds = integer_of(*timestamp, "seconds").value_or(-1);
    event.microseconds = integer_of(*timestamp, "microseconds").value_or(-1);
  }
  return event;
}

Message Session::receive_greeting(const Json& message) {
  const bool first = state_ == State::greeting_wait;
  // After a take-over it shows that the client before us had not come far.
  if (!first && (start_ != Start::take_over || state_ != State::negotiating)) {
    return ignore(counters_.invalid);
  }
  state_ = State::negotiating;
  const Json& greeting = message.at("QMP");
  Greeting result;
  result.version = version_of(greeting);
  if (const Json* offered = member(greeting, "capabilities"); offered != nullptr) {
    for (const Json& capability : *offered) {
      result.offers_oob = result.offers_oob || capability == "oob";
    }
  }
  oob_ = first && result.offers_oob;
  return result;
}

Message Session::receive_reply(Json& message) {
  const auto id = id_of(message);
  if (state_ != State::running) {
    return id == ids_.capabilities && state_ == State::negotiating
               ? receive_capabilities_reply(message)
               : ignore(counters_.unknown_ids);
  }
  if (id) {
    return settle(sent_with(*id), message);
  }
  // QEMU answers what its parser refuses without an id, yet in the order of the commands.
  const bool charge = !message.contains("id") && message.contains("error");
  const std::optional<Id> charged = charge ? at_work() : std::nullopt;
  return settle(charged ? pending_.find(*charged) : pending_.end(), message);
}

Message Session::receive_capabilities_reply(const Json& message) {
  if (message.contains("error")) {
    CommandError error = error_of(message, kCapabilities);
    // The client before us had negotiated already.
    if (start_ != Start::take_over || error.error_class() != "CommandNotFound") {
      return Reply{ids_.capabilities, std::move(error)};
    }
  }
  state_ = State::running;
  return Negotiated{};
}

Message Session::settle(std::map<Id, Pending>::iterator found, Json& message) {
  if (found == pending_.end()) {
    return ignore(counters_.unknown_ids);
  }
  // Replies of each band come in the order of its commands: older ones have lost theirs.
  const Band band = found->second.manner.band;
  for (auto older = pending_.begin(); older != found;) {
    Pending& pending = older->second;
    pending.passed_over = pending.passed_over || pending.manner.band == band;
    older = pending.passed_over && pending.abandoned ? pending_.erase(older) : std::next(older);
  }
  const Id id = found->first;
  const Pending pending = std::move(found->second);
  pending_.erase(found);
  if (pending.abandoned) {
    return ignore(counters_.late_replies);
  }
  if (message.contains("error")) {
    return Reply{id, error_of(message, pending.command)};
  }
  Reply reply;
  reply.id = id;
  reply.outcome = std::move(message["return"]);
  return reply;
}

/// Nobody can answer a command that was not sent: the id is a lost client's then.
std::map<Id, Session::Pending>::iterator Session::sent_with(Id id) {
  const auto found = pending_.find(id);
  return found != pending_.end() && found->second.sent ? found : pending_.end();
}

std::optional<Id> Session::at_work() const {
  const auto found = std::find_if(pending_.begin(), pending_.end(), [](const auto& entry) {
    return !entry.second.passed_over && entry.second.manner.band == Band::in_order;
  });
  return found != pending_.end() && found->second.sent ? std::optional(found->first) : std::nullopt;
}

/// The command whose id stands in a text that is no JSON, as QEMU writes it at the end of a reply.
std::map<Id, Session::Pending>::iterator Session::named_in(std::string_view text) {
  constexpr std::string_view kKey = "\"id\": ";
  const std::size_t key = text.rfind(kKey);
  const bool is_reply = text.find("\"event\"") == std::string_view::npos;
  if (state_ != State::running || !is_reply || key == std::string_view::npos) {
    return pending_.end();
  }
  const std::string_view rest = text.substr(key + kKey.size());
  const std::size_t digits = std::min(rest.find_first_not_of("0123456789"), rest.size());
  const auto id = base::parse_number<Id>(rest.substr(0, digits));
  return id ? sent_with(*id) : pending_.end();
}

Message Session::ignore(std::uint64_t& counter) {
  ++counter;
  return Ignored{};
}

std::vector<Id> Session::close(CloseReason reason) {
  std::vector<Id> waiting;
  if (state_ == State::closed) {
    return waiting;
  }
  state_ = State::closed;
  close_reason_ = std::move(reason);
  for (const auto& [id, pending] : pending_) {
    if (!pending.abandoned) {
      waiting.push_back(id);
    }
  }
  pending_.clear();
  return waiting;
}

}  // namespace vmlaunch::qmp
