// What a peer of the QMP client may send, and what its callers may do meanwhile. The input is the
// peer's bytes, with marks between them:
//
//   0x01 NAME [ARGUMENTS] newline   somebody gives a command in order
//   0x02 the same                   one with descriptors
//   0x03 the same                   one out of band
//   0x04                            the next command whose turn it is goes out
//   0x05, 0x06                      the oldest, the youngest caller waits no more
//   0x07                            a read ends here
//   0x0e                            the byte behind it is the peer's, whatever it is
//
// A first byte of 0x10 makes it a take-over. Ids count from 1; that of qmp_capabilities is 77.

#include <sanitizer/allocator_interface.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "qmp/errors.hpp"
#include "qmp/framer.hpp"
#include "qmp/session.hpp"

namespace vmlaunch::qmp {
namespace {

constexpr Session::Ids kIds = {77, 1};
constexpr std::size_t kLimit = 2048;  // of a message
constexpr std::string_view kIdKey = "\"id\": ";
constexpr std::size_t kPiece = 512;  // the longest read

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "not so: %s\n", what);
    std::abort();
  }
}

/// What a framer made of a stream.
struct Framed {
  std::size_t messages = 0;
  std::size_t digest = 0;  // of their texts: to keep them would hide what the framer keeps
  std::uint64_t skipped = 0;
  bool refused = false;

  void add(const std::string& text) {
    ++messages;
    digest = digest * 31 + std::hash<std::string>()(text);
  }
  bool operator==(const Framed&) const = default;
};

Framed frame_at_once(std::string_view bytes, Framer::Start start) {
  Framed framed;
  Framer framer(start, kLimit);
  framer.feed(bytes);
  try {
    for (auto text = framer.next(); text; text = framer.next()) {
      framed.add(*text);
    }
  } catch (const ProtocolError&) {
    framed.refused = true;
  }
  framed.skipped = framer.skipped();
  return framed;
}

/// A command as its caller knows it.
struct Call {
  std::string name;
  Session::Manner manner;
  bool sent = false;
};

/// A session and those who use it. Copied to see how the same past could go on.
class Users {
 public:
  explicit Users(Start start) : session_(start, kIds) {}

  void give(const std::string& name, const Json& arguments, Session::Manner manner);
  bool send_next();
  void leave(bool oldest);
  void receive(const std::string& text);
  void close();
  void require_good_end();
  [[nodiscard]] bool is_closed() const { return session_.state() == Session::State::closed; }

 private:
  [[nodiscard]] bool may_be_given(const Session::Manner& manner) const;
  void take(const Reply& reply);
  void note_late(const std::string& text);
  void check_turns() const;
  /// A younger one was answered, and QEMU answers in order.
  [[nodiscard]] bool is_lost(Id id, Band band) const {
    return band == Band::in_order && id < last_answered_;
  }
  [[nodiscard]] std::uint64_t dropped() const;

  Session session_;
  std::map<Id, Call> calls_;               // that somebody waits for
  std::vector<std::pair<Id, Band>> sent_;  // whether or not somebody still waits
  Id last_id_ = 0;
  Id last_answered_ = 0;  // in order
};

/// Encoded, it can be read by whoever reads JSON and says the same.
void check_bytes(const Session::Command& command,
                 const std::string& name,
                 const Json& arguments,
                 Band band) {
  require(command.bytes.find('\n') == command.bytes.size() - 1, "a command is one line");
  const Framed framed = frame_at_once(command.bytes, Framer::Start::at_message);
  require(framed.refused || (framed.messages == 1 && framed.skipped == 0),
          "a command is one message");
  Json expected = {{band == Band::in_order ? "execute" : "exec-oob", name}, {"id", command.id}};
  if (!arguments.empty()) {
    expected["arguments"] = arguments;
  }
  require(Json::parse(command.bytes) == expected, "a command says what it was given");
}

bool Users::may_be_given(const Session::Manner& manner) const {
  return session_.state() == Session::State::running &&
         (manner.band == Band::in_order || session_.has_oob());
}

void Users::give(const std::string& name, const Json& arguments, Session::Manner manner) {
  try {
    const Session::Command command = session_.encode(name, arguments, manner);
    require(may_be_given(manner), "only a session that can send a command takes it");
    require(command.id == last_id_ + 1, "ids are used once, and a refusal costs none");
    check_bytes(command, name, arguments, manner.band);
    last_id_ = command.id;
    calls_.emplace(command.id, Call{name, manner});
  } catch (const std::invalid_argument&) {
    require(session_.state() == Session::State::running, "the state is looked at first");
  } catch (const std::logic_error&) {
    require(session_.state() != Session::State::running, "a running session takes commands");
  }
}

void Users::check_turns() const {
  bool older_unsent = false;
  bool older_with_fds = false;
  for (const auto& [id, call] : calls_) {
    if (call.manner.band == Band::out_of_band || is_lost(id, call.manner.band)) {
      continue;
    }
    const bool its_turn = !call.sent && session_.may_send(id);
    require(!its_turn || !older_unsent, "commands go in order");
    require(!its_turn || !older_with_fds || !call.manner.carries_fds,
            "one command with descriptors is under way");
    older_unsent = older_unsent || !call.sent;
    older_with_fds = older_with_fds || call.manner.carries_fds;
  }
}

/// False when nothing can go out now.
bool Users::send_next() {
  check_turns();
  const auto next = std::find_if(calls_.begin(), calls_.end(), [this](const auto& entry) {
    return !entry.second.sent && session_.may_send(entry.first);
  });
  if (next == calls_.end()) {
    return false;
  }
  session_.note_sent(next->first);
  next->second.sent = true;
  sent_.emplace_back(next->first, next->second.manner.band);
  return true;
}

void Users::leave(bool oldest) {
  if (calls_.empty()) {
    return;
  }
  const auto found = oldest ? calls_.begin() : std::prev(calls_.end());
  if (found->second.sent) {
    session_.abandon(found->first);
  } else {
    session_.withdraw(found->first);
  }
  calls_.erase(found);
}

/// A reply for somebody who has left tells as well that older ones are lost.
void Users::note_late(const std::string& text) {
  const Json message = Json::parse(text, nullptr, false);
  const std::size_t key = text.rfind(kIdKey);
  std::optional<Id> id;
  if (message.is_object()) {
    const Json& named = message.contains("id") ? message["id"] : Json();
    id = named.is_number_unsigned() ? std::optional(named.get<Id>()) : std::nullopt;
  } else if (key != std::string::npos) {
    id = std::strtoull(text.c_str() + key + kIdKey.size(), nullptr, 10);
  }
  if (id && std::find(sent_.begin(), sent_.end(), std::pair(*id, Band::in_order)) != sent_.end()) {
    last_answered_ = std::max(last_answered_, *id);
  }
}

void Users::receive(const std::string& text) {
  const std::uint64_t dropped_before = dropped();
  const std::uint64_t late_before = session_.counters().late_replies;
  const Session::State before = session_.state();
  const Message message = session_.receive(text);
  if (const auto* reply = std::get_if<Reply>(&message)) {
    take(*reply);
  } else if (const auto* event = std::get_if<Event>(&message)) {
    require(event->data.is_object(), "an event's data are an object");
  } else if (std::holds_alternative<Greeting>(message)) {
    require(before != Session::State::running, "a greeting comes before all else");
    static_cast<void>(session_.opening());
  } else if (std::holds_alternative<Negotiated>(message)) {
    require(before == Session::State::negotiating, "only a negotiation ends");
  } else {
    require(dropped() > dropped_before, "what is dropped is counted");
  }
  if (session_.counters().late_replies > late_before) {
    note_late(text);
  }
}

void Users::take(const Reply& reply) {
  const auto* error = std::get_if<CommandError>(&reply.outcome);
  if (reply.id == kIds.capabilities && session_.state() == Session::State::negotiating) {
    require(error != nullptr, "a success of qmp_capabilities is no reply");
    close();
    return;
  }
  const auto found = calls_.find(reply.id);
  require(found != calls_.end(), "a reply is for a command that somebody waits for");
  require(found->second.sent, "a command that was not sent has no reply");
  require(error == nullptr || error->command() == found->second.name, "an error names its command");
  if (found->second.manner.band == Band::in_order) {
    last_answered_ = std::max(last_answered_, reply.id);
  }
  calls_.erase(found);
}

void Users::close() {
  std::vector<Id> waiting;
  for (const auto& [id, call] : calls_) {
    waiting.push_back(id);
  }
  require(session_.close({}) == waiting, "a close ends those who wait, and nobody else");
  require(session_.close({}).empty(), "there is one close");
  require(std::holds_alternative<Ignored>(session_.receive(R"({"return": {}, "id": 1})")),
          "nothing comes after the close");
}

/// Whatever was said before: if from now on QEMU answers in order what was sent and is not lost,
/// all is sent, and all who wait get their reply unless it is lost.
void Users::require_good_end() {
  if (session_.state() != Session::State::running) {
    return;
  }
  for (std::size_t next = 0; send_next() || next < sent_.size();) {
    if (next == sent_.size()) {
      continue;
    }
    const auto [id, band] = sent_[next++];
    if (!is_lost(id, band)) {
      receive(R"({"return": {}, "id": )" + std::to_string(id) + "}");
    }
  }
  for (const auto& [id, call] : calls_) {
    require(call.sent, "a peer that answers lets all be sent");
    require(is_lost(id, call.manner.band), "a peer that answers leaves nobody waiting");
  }
}

std::uint64_t Users::dropped() const {
  const Session::Counters& counters = session_.counters();
  return counters.invalid + counters.late_replies + counters.unknown_ids;
}

/// The input, step by step.
class Script {
 public:
  explicit Script(std::string_view rest)
      : take_over_(!rest.empty() && rest.front() == 0x10),
        rest_(rest.substr(take_over_ ? 1 : 0)),
        framer_(framer_start(), kLimit),
        users_(take_over_ ? Start::take_over : Start::greeting) {}

  void run();

 private:
  [[nodiscard]] Framer::Start framer_start() const {
    return take_over_ ? Framer::Start::mid_stream : Framer::Start::at_message;
  }
  char next() {
    const char c = rest_.front();
    rest_.remove_prefix(1);
    return c;
  }
  void step(char c);
  void give(Session::Manner manner);
  void end_read();

  bool take_over_;
  std::string_view rest_;
  std::string piece_;
  std::string stream_;  // all pieces
  std::size_t commands_ = 0;
  std::size_t names_ = 0;  // bytes of theirs
  Framed framed_;
  Framer framer_;
  Users users_;
  std::size_t heap_before_ = 0;
};

void Script::run() {
  stream_.reserve(rest_.size());
  piece_.reserve(kPiece);
  heap_before_ = __sanitizer_get_current_allocated_bytes();
  while (!rest_.empty() && !framed_.refused && !users_.is_closed()) {
    step(next());
  }
  end_read();
  if (users_.is_closed()) {
    return;
  }
  require(framed_ == frame_at_once(stream_, framer_start()), "how bytes arrive does not matter");
  Users(users_).require_good_end();
  users_.close();
}

void Script::step(char c) {
  switch (c) {
    case 0x01:
      return give({Band::in_order, false});
    case 0x02:
      return give({Band::in_order, true});
    case 0x03:
      return give({Band::out_of_band, false});
    case 0x04:
      static_cast<void>(users_.send_next());
      return;
    case 0x05:
    case 0x06:
      return users_.leave(c == 0x05);
    case 0x07:
      return end_read();
    case 0x0e:
      piece_ += rest_.empty() ? c : next();
      break;
    default:
      piece_ += c;
  }
  if (piece_.size() == kPiece) {
    end_read();
  }
}

void Script::give(Session::Manner manner) {
  const std::string_view line = rest_.substr(0, rest_.find('\n'));
  rest_.remove_prefix(std::min(line.size() + 1, rest_.size()));
  const std::string_view name = line.substr(0, line.find(' '));
  const std::string_view arguments = line.substr(std::min(name.size() + 1, line.size()));
  const Json parsed = arguments.empty() ? Json() : Json::parse(arguments, nullptr, false);
  users_.give(std::string(name), parsed, manner);
  ++commands_;
  names_ += name.size();
}

/// What the client does with the bytes of one read.
void Script::end_read() {
  if (framed_.refused || users_.is_closed()) {
    return;
  }
  stream_ += piece_;
  framer_.feed(piece_);
  piece_.clear();
  try {
    for (auto text = framer_.next(); text && !users_.is_closed(); text = framer_.next()) {
      framed_.add(*text);
      users_.receive(*text);
    }
  } catch (const ProtocolError&) {
    framed_.refused = true;
  }
  framed_.skipped = framer_.skipped();
  // A buffer doubles when it grows; a command is remembered here and there.
  const std::size_t bound = 2 * (kLimit + kPiece) + 1024 * (commands_ + 1);
  const std::size_t heap = __sanitizer_get_current_allocated_bytes();
  require(heap <= heap_before_ + bound + 4 * names_, "memory is bounded");
}

}  // namespace
}  // namespace vmlaunch::qmp

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  vmlaunch::qmp::Script(std::string_view(reinterpret_cast<const char*>(data), size)).run();
  return 0;
}
