#include "sandbox/policy.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "base/text.hpp"

namespace vmlaunch::sandbox {

namespace {

constexpr std::array<std::pair<std::string_view, Answer>, 7> kAnswers = {{
    {"allow", Answer::allow},
    {"start", Answer::start},
    {"once", Answer::once},
    {"refuse", Answer::refuse},
    {"eperm", Answer::eperm},
    {"enosys", Answer::enosys},
    {"kill", Answer::kill},
}};

/// The kernel passes six.
constexpr unsigned kArguments = 6;

[[noreturn]] void fail(const std::string& what) {
  throw std::invalid_argument(what);
}

std::optional<std::uint64_t> parse_value(const std::string& text) {
  return text.starts_with("0x") ? base::parse_number<std::uint64_t>(text.substr(2), 16)
                                : base::parse_number<std::uint64_t>(text);
}

std::uint64_t read_value(const std::string& text) {
  const auto value = parse_value(text);
  return value ? *value : (fail("\"" + text + "\" is not a number"), 0);
}

/// Words of one line, one after the other.
class Words {
 public:
  explicit Words(const std::string& line) : stream_(line) { advance(); }

  [[nodiscard]] bool done() const { return word_.empty(); }
  [[nodiscard]] const std::string& peek() const { return word_; }

  std::string next() {
    std::string word = word_;
    advance();
    return word;
  }

  void expect(const char* word) {
    if (word_ != word) {
      fail(std::string("expected \"") + word + "\", found \"" + word_ + "\"");
    }
    advance();
  }

 private:
  void advance() {
    word_.clear();
    stream_ >> word_;
  }

  std::istringstream stream_;
  std::string word_;
};

/// argN [& MASK] == VALUE
Condition read_condition(Words& words) {
  const std::string argument = words.next();
  const auto index = argument.starts_with("arg")
                         ? base::parse_number<unsigned>(std::string_view(argument).substr(3))
                         : std::nullopt;
  if (!index || *index >= kArguments) {
    fail("\"" + argument + "\" is not an argument, arg0 to arg5");
  }
  Condition condition;
  condition.argument = *index;
  if (words.peek() == "&") {
    words.expect("&");
    condition.mask = read_value(words.next());
  }
  words.expect("==");
  const std::string value = words.next();
  condition.self = value == "self";
  if (!condition.self) {
    condition.value = read_value(value);
  }
  if ((condition.value & ~condition.mask) != 0) {
    fail("a condition that never holds: the value has bits that the mask lacks");
  }
  return condition;
}

std::vector<Condition> read_conditions(Words& words) {
  std::vector<Condition> conditions;
  while (!words.done()) {
    words.expect(conditions.empty() ? "if" : "and");
    conditions.push_back(read_condition(words));
    const unsigned argument = conditions.back().argument;
    // libseccomp takes one condition for each.
    if (std::count_if(conditions.begin(), conditions.end(), [&](const Condition& condition) {
          return condition.argument == argument;
        }) > 1) {
      fail("two conditions about one argument");
    }
  }
  return conditions;
}

Answer read_answer(const std::string& word) {
  const auto* known = std::find_if(
      kAnswers.begin(), kAnswers.end(), [&](const auto& answer) { return answer.first == word; });
  if (known == kAnswers.end()) {
    fail("\"" + word + "\" is no answer to a call");
  }
  return known->second;
}

void read_rules(Words& words, std::vector<CallRule>& rules) {
  const Answer answer = read_answer(words.next());
  std::vector<std::string> calls;
  while (!words.done() && words.peek() != "if") {
    calls.push_back(words.next());
  }
  if (calls.empty()) {
    fail("a rule about no call");
  }
  const std::vector<Condition> conditions = read_conditions(words);
  for (std::string& call : calls) {
    rules.push_back({std::move(call), conditions, answer});
  }
}

/// What is always refused stays refused, whatever another section says.
void require_firm_kills(const Policy& policy) {
  std::map<std::string, bool> killed;
  for (const auto& [name, rules] : policy.sections) {
    for (const CallRule& rule : rules) {
      const bool kills = rule.answer == Answer::kill;
      const auto [known, is_new] = killed.emplace(rule.call, kills);
      if (!is_new && known->second != kills) {
        fail("the call " + rule.call + " is killed, and answered otherwise too");
      }
    }
  }
}

/// Reads line after line.
class Parser {
 public:
  void read(const std::string& line) {
    const std::size_t comment = line.find('#');
    const std::string rule = line.substr(0, comment);
    Words words(rule);
    if (words.done()) {
      return;
    }
    if (words.peek().starts_with('[')) {
      begin_section(words);
    } else if (words.peek() == "newest") {
      words.expect("newest");
      policy_.newest = static_cast<int>(read_value(words.next()));
    } else if (section_ == nullptr) {
      fail("a rule outside of a section");
    } else if (comment == std::string::npos) {
      fail("a rule that does not say why: end it with \"# \" and the reason");
    } else {
      read_rules(words, *section_);
    }
    if (!words.done()) {
      fail("\"" + words.peek() + "\" is too much");
    }
  }

  Policy finish() {
    if (policy_.newest <= 0) {
      fail("no \"newest\"");
    }
    if (!policy_.sections.contains(kBaseSection)) {
      fail("no section [base]");
    }
    require_firm_kills(policy_);
    return std::move(policy_);
  }

 private:
  void begin_section(Words& words) {
    const std::string name = words.next();
    if (name.size() < 3 || !name.ends_with(']')) {
      fail("\"" + name + "\" is no section");
    }
    const auto [section, is_new] = policy_.sections.try_emplace(name.substr(1, name.size() - 2));
    if (!is_new) {
      fail("the section " + name + " stands twice");
    }
    section_ = &section->second;
  }

  Policy policy_;
  std::vector<CallRule>* section_ = nullptr;
};

}  // namespace

Policy parse_policy(std::string_view text) {
  Parser parser;
  std::size_t number = 0;
  for (const std::string& line : base::split(text, '\n')) {
    ++number;
    try {
      parser.read(line);
    } catch (const std::invalid_argument& error) {
      fail("line " + std::to_string(number) + ": " + error.what());
    }
  }
  return parser.finish();
}

}  // namespace vmlaunch::sandbox
