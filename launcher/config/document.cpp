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
      at = std::min(text.find('\n', at), text.size());
    } else if (text.substr(at, 2) == "/*") {
      const std::size_t end = text.find("*/", at + 2);
      at = end == std::string_view::npos ? text.size() : end + 2;
    } else {
      break;
    }
  }
  return at;
}

std::string without_library_prefix(std::string_view what) {
  const std::size_t column = what.find("column ");
  const std::size_t colon = what.find(": ", column == std::string_view::npos ? 0 : column);
  return colon == std::string_view::npos ? std::string(what) : std::string(what.substr(colon + 2));
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
    if (document.text_.starts_with("\xEF\xBB\xBF")) {
      last_end_ = 3;
    }
  }

  const char** furthest() { return &furthest_; }
  [[nodiscard]] const std::vector<Issue>& issues() const { return issues_; }
  [[nodiscard]] std::optional<std::size_t> syntax_error_offset() const { return syntax_error_; }

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
      issues_.push_back({pointer, "this key stands here a second time", true});
    }
    document_.places_[pointer].key = token_start();
    levels_.back().next_key = name;
    token_done();
    return true;
  }

  bool parse_error(std::size_t position,
                   const std::string& /*token*/,
                   const Json::exception& error) override {
    syntax_error_ = std::min(position == 0 ? 0 : position - 1, document_.text_.size());
    issues_.push_back({"", without_library_prefix(error.what())});
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
      syntax_error_ = token_start();
      issues_.push_back({"", "nested deeper than " + std::to_string(kDepthLimit) + " levels"});
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
  std::vector<Issue> issues_;
  std::optional<std::size_t> syntax_error_;
};

Document::Document(std::string file, std::string text)
    : file_(std::move(file)), text_(std::move(text)) {
  Builder builder(*this);
  const char* begin = text_.data();
  const TrackingIterator first(begin, builder.furthest());
  const TrackingIterator last(begin + text_.size(), builder.furthest());
  Json::sax_parse(first, last, &builder, Json::input_format_t::json, true, true);
  if (const auto where = builder.syntax_error_offset()) {
    throw ConfigError({line(*where, builder.issues().back())});
  }
  if (!builder.issues().empty()) {
    throw error(builder.issues());
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

std::string Document::line(std::size_t offset, const Issue& issue) const {
  const std::string_view before = std::string_view(text_).substr(0, offset);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
  const auto column =
      1 + std::count_if(before.begin() + static_cast<std::ptrdiff_t>(line_start),
                        before.end(),
                        [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; });
  std::string text =
      base::printable(file_) + ":" + std::to_string(line) + ":" + std::to_string(column) + ": ";
  if (!issue.pointer.empty()) {
    text += base::printable(issue.pointer) + ": ";
  }
  return text + base::printable(issue.message);
}

ConfigError Document::error(const std::vector<Issue>& issues) const {
  std::vector<std::pair<std::size_t, std::string>> placed;
  placed.reserve(issues.size());
  for (const Issue& issue : issues) {
    const std::size_t where = offset(issue);
    placed.emplace_back(where, line(where, issue));
  }
  std::stable_sort(
      placed.begin(), placed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> lines;
  lines.reserve(placed.size());
  for (auto& [where, text] : placed) {
    lines.push_back(std::move(text));
  }
  return ConfigError(lines);
}

}  // namespace vmlaunch::launcher::config
