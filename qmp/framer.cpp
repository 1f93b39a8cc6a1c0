#include "qmp/framer.hpp"

#include <algorithm>
#include <array>

#include "qmp/errors.hpp"

namespace vmlaunch::qmp {

namespace {

/// Of each byte inside an object and outside strings how many values it announces, or kSpecial. A
/// table, because to compare with each of them takes longer than all the rest.
constexpr unsigned char kSpecial = 2;
constexpr std::array<unsigned char, 256> kKinds = [] {
  std::array<unsigned char, 256> kinds{};
  kinds[','] = 1;
  for (const char c : {'"', '{', '}', '[', ']'}) {
    kinds[static_cast<unsigned char>(c)] = kSpecial;
  }
  return kinds;
}();

unsigned char kind_of(char c) {
  return kKinds[static_cast<unsigned char>(c)];
}

}  // namespace

Framer::Framer(Start start, std::size_t limit)
    : limit_(limit), place_(start == Start::mid_stream ? Place::junk : Place::outside) {}

void Framer::feed(std::string_view bytes) {
  buffer_.erase(0, start_);
  scanned_ -= start_;
  start_ = 0;
  buffer_ += bytes;
}

std::optional<std::string> Framer::next() {
  while (scanned_ < buffer_.size()) {
    const char c = buffer_[scanned_++];
    if (place_ == Place::outside || place_ == Place::junk) {
      step_outside(c);
      continue;
    }
    const std::size_t length = scanned_ - start_;
    if (length > limit_) {
      throw ProtocolError("A QMP message exceeds " + std::to_string(limit_) + " bytes");
    }
    // A value of two bytes becomes some hundred once it is parsed.
    if (values_ > kValueLimit) {
      throw ProtocolError("A QMP message has more than " + std::to_string(kValueLimit) + " values");
    }
    if (place_ != Place::object) {
      step_string(c);
    } else if (ends_object(c)) {
      std::string text = buffer_.substr(start_, length);
      start_ = scanned_;
      place_ = Place::outside;
      return text;
    }
    pass_over_plain();
  }
  return std::nullopt;
}

// Most of a message, and faster in a loop of its own.
void Framer::pass_over_plain() {
  const char* const from = buffer_.data() + scanned_;
  const char* const to = buffer_.data() + std::min(buffer_.size(), start_ + limit_);
  const char* next = from;
  if (place_ == Place::string) {
    next = std::find_if(from, to, [](char c) { return c == '"' || c == '\\'; });
  } else if (place_ == Place::object) {
    std::size_t commas = 0;
    for (; next != to && kind_of(*next) != kSpecial; ++next) {
      commas += kind_of(*next);
    }
    values_ += commas;
  }
  scanned_ += static_cast<std::size_t>(next - from);
}

void Framer::step_outside(char c) {
  constexpr std::string_view kSpace = " \t\r\n";
  if (place_ == Place::outside && c == '{') {
    place_ = Place::object;
    start_ = scanned_ - 1;
    braces_ = 1;
    brackets_ = 0;
    values_ = 2;  // itself and a first member
    return;
  }
  start_ = scanned_;
  if (c == '\n') {
    place_ = Place::outside;
  } else if (place_ == Place::junk || kSpace.find(c) == std::string_view::npos) {
    place_ = Place::junk;
    ++skipped_;
  }
}

void Framer::step_string(char c) {
  if (place_ == Place::escape) {
    place_ = Place::string;
  } else if (c == '\\') {
    place_ = Place::escape;
  } else if (c == '"') {
    place_ = Place::object;
  }
}

// Brackets only count towards the nesting limit: were they to decide where an object ends, one
// that is left open in an invalid message would swallow all that follow.
bool Framer::ends_object(char c) {
  switch (c) {
    case '"':
      place_ = Place::string;
      return false;
    case ',':
      ++values_;
      return false;
    case '{':
      nest(braces_);
      return false;
    case '[':
      nest(brackets_);
      return false;
    case ']':
      brackets_ -= brackets_ > 0 ? 1 : 0;
      return false;
    case '}':
      return --braces_ == 0;
    default:
      return false;
  }
}

// Copying and printing a JSON value recurses, so unlimited nesting would exhaust the stack.
void Framer::nest(std::size_t& depth) {
  ++depth;
  ++values_;
  if (braces_ + brackets_ > kNestingLimit) {
    throw ProtocolError("A QMP message is nested deeper than " + std::to_string(kNestingLimit) +
                        " levels");
  }
}

}  // namespace vmlaunch::qmp
