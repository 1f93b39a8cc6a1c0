#include "launcher/config/document.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <utility>

#include "base/text.hpp"

namespace vmlaunch::launcher::config {

namespace {

constexpr std::size_t kDepthLimit = 32;

/// More lines than this help nobody, and each costs a look at the whole text before its place.
constexpr std::size_t kMostLines = 100;

/// The longest pointer and the longest message of a line, in bytes.
constexpr std::size_t kLongestPart = 500;

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

/// Lets the JSON library's lexer read while we see how far it has come: it reads one character at a
/// time and reports each token before it looks for the next.
class TrackingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  TrackingIterator(const char* at, const char** furthest) : at_(at), furthest_(furthest) {}

  reference operator*() const { return *at_; }
  TrackingIterator& operator++() {
    ++at_;
    *furthest_ = at_;
    return *this;
  }
  bool operator==(const TrackingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const TrackingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** furthest_;
};

/// The first byte at or after `at` that belongs to a token: neither space, comment nor separator.
std::size_t skip_to_token(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    if (std::string_view(" \t\r\n,:").find(text[at]) != std::string_view::npos) {
      ++at;
    } else if (text.substr(at, 2) == "//") {
      at = std::min(text.find_first_of("\r\n", at), text.size());
    } else if (text.substr(at, 2) == "/*") {
      const std::size_t end = text.find("*/", at + 2);
      at = end == std::string_view::npos ? text.size() : end + 2;
    } else {
      break;
    }
  }
  return at;
}

void replace_end(std::string& text, std::string_view end, std::string_view better) {
  if (text.ends_with(end)) {
    text.replace(text.size() - end.size(), end.size(), better);
  }
}

/// "[json.exception.NAME.ID] parse error at line L, column C: MESSAGE; last read: 'TOKEN'; …"
/// without what we tell better, and without the token, which may be as long as the file.
std::string message_of(const Json::exception& error, const std::string& token) {
  std::string text = error.what();
  text.erase(0, text.find("] ") + 2);
  if (text.starts_with("parse error at ")) {
    text.erase(0, text.find(": ") + 2);
  }
  const std::string last_read = "; last read: '" + token + "'";
  if (const std::size_t at = text.find(last_read); at != std::string::npos) {
    text.erase(at, last_read.size());
  }
  replace_end(text, "expected string literal", "expected a key in quotes");
  replace_end(text, "expected '}'", "expected ',' or '}'");
  replace_end(text, "expected ']'", "expected ',' or ']'");
  return text;
}

/// At most `longest` bytes of printable text, cut between characters.
std::string shorten(std::string text, std::size_t longest) {
  if (text.size() <= longest) {
    return text;
  }
  while ((static_cast<unsigned char>(text[longest]) & 0xC0U) == 0x80U) {
    --longest;
  }
  return text.substr(0, longest) + "…";
}

}  // namespace

std::string child(const std::string& pointer, std::string_view key) {
  std::string escaped = pointer + "/";
  for (const char c : key) {
    if (c == '~') {
      escaped += "~0";
    } else if (c == '/') {
      escaped += "~1";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string child(const std::string& pointer, std::size_t index) {
  return pointer + "/" + std::to_string(index);
}

ConfigError::ConfigError(const std::vector<std::string>& lines)
    : Failure(ExitCode::usage, base::join(lines, "\n")) {}

/// Receives the tokens, builds the values and notes where each stands.
class Document::Builder : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(Document& document) : document_(document), furthest_(document.text_.data()) {
    if (document.text_.starts_with(kByteOrderMark)) {
      last_end_ = kByteOrderMark.size();
    }
  }

  const char** furthest() { return &furthest_; }
  [[nodiscard]] const std::vector<PlacedIssue>& duplicates() const { return duplicates_; }
  [[nodiscard]] const std::optional<PlacedIssue>& syntax_error() const { return syntax_error_; }

  bool null() override { return value(nullptr); }
  bool boolean(bool v) override { return value(v); }
  bool number_integer(number_integer_t v) override { return value(v); }
  bool number_unsigned(number_unsigned_t v) override { return value(v); }
  bool number_float(number_float_t v, const string_t& /*text*/) override { return value(v); }
  bool string(string_t& v) override { return value(v); }
  bool binary(binary_t& /*v*/) override { return false; }

  bool start_object(std::size_t /*size*/) override { return open(Json::object()); }
  bool start_array(std::size_t /*size*/) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    const std::string pointer = child(levels_.back().pointer, name);
    if (levels_.back().value->contains(name)) {
      duplicates_.push_back({token_start(), {pointer, "this key stands here a second time", true}});
    }
    document_.places_[pointer].key = token_start();
    levels_.back().next_key = name;
    token_done();
    return true;
  }

  bool parse_error(std::size_t position,
                   const std::string& token,
                   const Json::exception& error) override {
    std::size_t where = std::min(position == 0 ? 0 : position - 1, document_.text_.size());
    const std::string message = message_of(error, token);
    // The library tells a token's end; that is where one is ill-formed, but not where it is
    // unwanted.
    if (message.find(" - invalid ") == std::string::npos) {
      where = std::min(where, token_start());
    }
    syntax_error_ = {where, {"", message}};
    return false;
  }

 private:
  struct Level {
    Json* value;
    std::string pointer;
    std::string next_key;
  };

  [[nodiscard]] std::size_t token_start() const {
    return skip_to_token(document_.text_, last_end_);
  }

  void token_done() { last_end_ = static_cast<std::size_t>(furthest_ - document_.text_.data()); }

  /// Puts a value where it belongs and returns where it is now.
  Json* place(Json v) {
    if (levels_.empty()) {
      document_.places_[""].value = token_start();
      document_.root_ = std::move(v);
      return &document_.root_;
    }
    Level& level = levels_.back();
    if (level.value->is_array()) {
      document_.places_[child(level.pointer, level.value->size())].value = token_start();
      level.value->push_back(std::move(v));
      return &level.value->back();
    }
    document_.places_[child(level.pointer, level.next_key)].value = token_start();
    return &((*level.value)[level.next_key] = std::move(v));
  }

  bool value(Json v) {
    const bool number = v.is_number();
    const std::size_t start = token_start();
    place(std::move(v));
    token_done();
    if (number) {  // the lexer has read one character more to see the number's end
      last_end_ = std::min(document_.text_.find_first_not_of("0123456789+-.eE", start),
                           document_.text_.size());
    }
    return true;
  }

  bool open(Json v) {
    if (levels_.size() == kDepthLimit) {
      syntax_error_ = {token_start(),
                       {"", "nested deeper than " + std::to_string(kDepthLimit) + " levels"}};
      return false;
    }
    std::string pointer;
    if (!levels_.empty()) {
      const Level& level = levels_.back();
      pointer = level.value->is_array() ? child(level.pointer, level.value->size())
                                        : child(level.pointer, level.next_key);
    }
    Json* placed = place(std::move(v));
    levels_.push_back({placed, std::move(pointer), {}});
    token_done();
    return true;
  }

  bool close() {
    levels_.pop_back();
    token_done();
    return true;
  }

  Document& document_;
  const char* furthest_;
  std::size_t last_end_ = 0;
  std::vector<Level> levels_;
  std::vector<PlacedIssue> duplicates_;
  std::optional<PlacedIssue> syntax_error_;
};

Document::Document(std::string file, std::string text)
    : file_(std::move(file)), text_(std::move(text)) {
  // The library takes a NUL for the end of the text.
  if (const std::size_t nul = text_.find('\0'); nul != std::string::npos) {
    throw error_at({{nul, {"", "a NUL byte; a config is UTF-8 text"}}});
  }
  Builder builder(*this);
  const char* begin = text_.data();
  const TrackingIterator first(begin, builder.furthest());
  const TrackingIterator last(begin + text_.size(), builder.furthest());
  Json::sax_parse(first, last, &builder, Json::input_format_t::json, true, true);
  if (const auto& syntax_error = builder.syntax_error()) {
    throw error_at({*syntax_error});
  }
  if (!builder.duplicates().empty()) {
    throw error_at(builder.duplicates());
  }
}

std::size_t Document::offset(const Issue& issue) const {
  std::string pointer = issue.pointer;
  for (;;) {
    const auto found = places_.find(pointer);
    if (found != places_.end()) {
      return issue.at_key && pointer == issue.pointer ? found->second.key : found->second.value;
    }
    if (pointer.empty()) {
      return 0;
    }
    pointer.resize(pointer.rfind('/'));
  }
}

std::string Document::line(const PlacedIssue& placed) const {
  const auto& [offset, issue] = placed;
  std::string_view before = std::string_view(text_).substr(0, offset);
  if (before.starts_with(kByteOrderMark)) {
    before.remove_prefix(kByteOrderMark.size());
  }
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
  const auto column =
      1 + std::count_if(before.begin() + static_cast<std::ptrdiff_t>(line_start),
                        before.end(),
                        [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; });
  std::string text =
      base::printable(file_) + ":" + std::to_string(line) + ":" + std::to_string(column) + ": ";
  if (!issue.pointer.empty()) {
    text += shorten(base::printable(issue.pointer), kLongestPart) + ": ";
  }
  return text + shorten(base::printable(issue.message), kLongestPart);
}

ConfigError Document::error(const std::vector<Issue>& issues) const {
  std::vector<PlacedIssue> placed;
  placed.reserve(issues.size());
  for (const Issue& issue : issues) {
    placed.emplace_back(offset(issue), issue);
  }
  return error_at(std::move(placed));
}

ConfigError Document::error_at(std::vector<PlacedIssue> issues) const {
  std::stable_sort(
      issues.begin(), issues.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> lines;
  for (const PlacedIssue& issue : issues) {
    if (lines.size() == kMostLines) {
      lines.push_back("and " + std::to_string(issues.size() - kMostLines) + " more");
      break;
    }
    lines.push_back(line(issue));
  }
  return ConfigError(lines);
}

}  // namespace vmlaunch::launcher::config
