#include "qmp/encoding.hpp"

#include <cmath>
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string_view>

#include "base/text.hpp"

namespace vmlaunch::qmp {

namespace {

// Those of qobject/json-streamer.c. What exceeds one is answered by errors without an id, several
// for one command.
constexpr std::size_t kByteLimit = std::size_t{64} << 20U;
constexpr std::size_t kTokenLimit = std::size_t{2} << 20U;
constexpr std::size_t kNestingLimit = 1024;

[[noreturn]] void refuse(const std::string& command, const std::string& cause) {
  throw std::invalid_argument("Cannot send command " + base::printable(command) + ": " + cause);
}

struct Sequence {
  std::uint32_t lead_bits = 0;  // what the first byte contributes to the code point
  std::size_t length = 0;       // 0: not a first byte
  std::uint32_t smallest = 0;   // anything below is overlong
};

Sequence sequence_of(unsigned char lead) {
  if (lead < 0x80) {
    return {lead, 1, 0};
  }
  if ((lead & 0xe0U) == 0xc0) {
    return {lead & 0x1fU, 2, 0x80};
  }
  if ((lead & 0xf0U) == 0xe0) {
    return {lead & 0x0fU, 3, 0x800};
  }
  if ((lead & 0xf8U) == 0xf0) {
    return {lead & 0x07U, 4, 0x10000};
  }
  return {};
}

/// The code point at the start of `text`, which is cut off; nothing if it is not valid UTF-8.
std::optional<std::uint32_t> take_code_point(std::string_view& text) {
  const Sequence sequence = sequence_of(static_cast<unsigned char>(text.front()));
  if (sequence.length == 0 || sequence.length > text.size()) {
    return std::nullopt;
  }
  std::uint32_t code_point = sequence.lead_bits;
  for (const char c : text.substr(1, sequence.length - 1)) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xc0U) != 0x80) {
      return std::nullopt;
    }
    code_point = (code_point << 6U) | (byte & 0x3fU);
  }
  text.remove_prefix(sequence.length);
  const bool surrogate = code_point >= 0xd800 && code_point <= 0xdfff;
  if (code_point < sequence.smallest || code_point > 0x10ffff || surrogate) {
    return std::nullopt;
  }
  return code_point;
}

// QEMU's lexer refuses noncharacters though they are valid JSON, by an error without an id.
bool is_noncharacter(std::uint32_t code_point) {
  return (code_point & 0xfffeU) == 0xfffe || (code_point >= 0xfdd0 && code_point <= 0xfdef);
}

void check_text(const std::string& command, std::string_view text) {
  while (!text.empty()) {
    const auto code_point = take_code_point(text);
    if (!code_point) {
      refuse(command, "a string in it is not valid UTF-8");
    }
    if (is_noncharacter(*code_point)) {
      refuse(command, "a string in it has a Unicode noncharacter, which QEMU refuses");
    }
  }
}

/// Goes through the arguments of a command and counts what QEMU's lexer makes of it.
class Check {
 public:
  explicit Check(const std::string& command) : command_(command) { count(kTokensOfCommand); }

  /// Not for empty ones, which are left out.
  void arguments(const Json& value) {
    count(kTokensOfArguments);
    visit(value, 2);
  }

 private:
  static constexpr std::size_t kTokensOfCommand = 9;    // {"execute":"stop","id":1}
  static constexpr std::size_t kTokensOfArguments = 3;  // ,"arguments":

  void count(std::size_t tokens) {
    tokens_ += tokens;
    if (tokens_ > kTokenLimit) {
      refuse(command_,
             "it has more than the " + std::to_string(kTokenLimit) + " tokens that QEMU reads");
    }
  }

  /// `depth` is the level of the value if it is an object or array; the command itself is the
  /// first.
  void visit(const Json& value, std::size_t depth) {
    if (value.is_structured()) {
      visit_elements(value, depth);
      return;
    }
    count(1);
    if (value.is_string()) {
      check_text(command_, value.get_ref<const std::string&>());
    } else if (value.is_number_float() && !std::isfinite(value.get<double>())) {
      refuse(command_, "JSON has no infinity and no not-a-number");
    } else if (value.is_binary() || value.is_discarded()) {
      refuse(command_, "a value in it is not JSON");
    }
  }

  void visit_elements(const Json& value, std::size_t depth) {
    if (depth > kNestingLimit) {
      refuse(command_,
             "it is nested deeper than the " + std::to_string(kNestingLimit) +
                 " levels that QEMU reads");
    }
    // Two brackets and the commas between, and with each key its colon.
    const std::size_t size = value.size();
    count(2 + (size > 1 ? size - 1 : 0) + (value.is_object() ? 2 * size : 0));
    if (value.is_object()) {
      for (const auto& member : value.items()) {
        check_text(command_, member.key());
      }
    }
    for (const Json& element : value) {
      visit(element, depth + 1);
    }
  }

  const std::string& command_;
  std::size_t tokens_ = 0;
};

}  // namespace

std::string encode_command(const std::string& name, const Json& arguments, Id id, Band band) {
  if (!arguments.is_object() && !arguments.is_null()) {
    refuse(name, "its arguments are not an object");
  }
  check_text(name, name);
  Check check(name);
  std::string bytes = band == Band::in_order ? R"({"execute":)" : R"({"exec-oob":)";
  bytes += Json(name).dump();
  if (!arguments.empty()) {
    check.arguments(arguments);
    bytes += R"(,"arguments":)" + arguments.dump();
  }
  bytes += R"(,"id":)" + std::to_string(id) + "}\n";
  if (bytes.size() > kByteLimit) {
    refuse(name, "it is longer than the " + std::to_string(kByteLimit) + " bytes that QEMU reads");
  }
  return bytes;
}

}  // namespace vmlaunch::qmp
