#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace vmlaunch::qmp {

/// Cuts a byte stream into the texts of complete JSON objects. Lines are no help: with pretty=on
/// QEMU puts line ends into its messages, and one read may end anywhere.
class Framer {
 public:
  enum class Start {
    at_message,
    mid_stream,  ///< The stream may begin inside a message: all up to the first newline is skipped.
  };

  /// The longest message in bytes; QEMU's own limit for one token.
  static constexpr std::size_t kDefaultLimit = std::size_t{64} * 1024 * 1024;
  /// Objects and arrays inside each other; QEMU's own limit.
  static constexpr std::size_t kNestingLimit = 1024;
  /// Members of objects and elements of arrays in one message, and itself; an empty object or array
  /// counts as two. As many as QEMU's own limit for tokens, of which each value is at least one.
  static constexpr std::size_t kValueLimit = std::size_t{2} * 1024 * 1024;

  explicit Framer(Start start = Start::at_message, std::size_t limit = kDefaultLimit);

  void feed(std::string_view bytes);

  /// The next complete object, not checked to be valid JSON; nothing until more was fed. Throws
  /// ProtocolError when a message exceeds a limit: the framer is then of no more use.
  [[nodiscard]] std::optional<std::string> next();

  /// Bytes outside objects that were not white space, each with the rest of its line.
  [[nodiscard]] std::uint64_t skipped() const { return skipped_; }

 private:
  enum class Place { outside, junk, object, string, escape };

  void pass_over_plain();
  void step_outside(char c);
  void step_string(char c);
  [[nodiscard]] bool ends_object(char c);
  void nest(std::size_t& depth);

  std::string buffer_;
  std::size_t start_ = 0;    // of the object that is being scanned
  std::size_t scanned_ = 0;  // bytes before this one are never looked at again
  std::size_t limit_;
  std::size_t braces_ = 0;
  std::size_t brackets_ = 0;
  std::size_t values_ = 0;  // at most so many: each bracket and each comma may begin one
  std::uint64_t skipped_ = 0;
  Place place_;
};

}  // namespace vmlaunch::qmp
