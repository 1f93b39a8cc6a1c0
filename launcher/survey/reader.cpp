#include "launcher/survey/reader.hpp"

#include <algorithm>

#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t");
  return first == std::string_view::npos
             ? std::string_view()
             : text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

void note(std::vector<std::string>& unseen, const std::string& line) {
  if (std::find(unseen.begin(), unseen.end(), line) == unseen.end()) {
    unseen.push_back(line);
  }
}

/// Notes the uppermost folder that hides `path`, once for all that is below.
bool note_hidden(std::vector<std::string>& unseen,
                 const base::Tree& tree,
                 const std::string& path) {
  if (!tree.is_hidden(path)) {
    return false;
  }
  std::size_t end = path.find('/', 1);
  while (end != std::string::npos && !tree.is_hidden(path.substr(0, end))) {
    end = path.find('/', end + 1);
  }
  note(unseen, path.substr(0, end) + ": Permission denied");
  return true;
}

}  // namespace

std::string quoted(std::string_view found) {
  constexpr std::size_t kShown = 80;
  return "\"" + base::printable(found.substr(0, kShown)) + (found.size() > kShown ? "…\"" : "\"");
}

std::vector<std::string> words_of(std::string text) {
  std::replace(text.begin(), text.end(), '\t', ' ');
  std::vector<std::string> words = base::split(text, ' ');
  words.erase(std::remove(words.begin(), words.end(), ""), words.end());
  return words;
}

bool Reader::has(const std::string& folder) {
  if (!tree_.exists(folder)) {
    note_hidden(unseen_, tree_, folder);
    return false;
  }
  kept_.emplace(folder, std::nullopt);
  return true;
}

std::optional<std::string> Reader::look(const std::string& path) {
  std::optional<std::string> found = tree_.read(path);
  if (!found && !note_hidden(unseen_, tree_, path) && tree_.exists(path)) {
    note(unseen_, path + ": it cannot be read");
  }
  return found;
}

std::optional<std::string> Reader::text(const std::string& path) {
  std::optional<std::string> found = look(path);
  if (found) {
    keep(path, *found);
  }
  return found;
}

std::optional<std::uint64_t> Reader::number(const std::string& path) {
  const std::optional<std::string> found = text(path);
  if (!found || *found == "-1") {
    return std::nullopt;
  }
  const auto value = base::parse_number<std::uint64_t>(*found);
  if (!value) {
    doubt(path, *found);
  }
  return value;
}

std::optional<base::CpuSet> Reader::cpus(const std::string& path) {
  return parse(path, [](const std::string& found) { return base::parse_cpu_set(found); });
}

std::vector<std::string> Reader::words(const std::string& path) {
  return words_of(text(path).value_or(""));
}

std::optional<std::string> Reader::field(const std::string& path, const std::string& key) {
  for (const std::string& line : base::split(look(path).value_or(""), '\n')) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos ||
        trimmed(std::string_view(line).substr(0, colon)) != std::string_view(key)) {
      continue;
    }
    std::optional<std::string>& lines = kept_[path];
    lines = lines.value_or("");
    const std::vector<std::string> known = base::split(*lines, '\n');
    if (std::find(known.begin(), known.end(), line) == known.end()) {
      lines->append(lines->empty() ? "" : "\n").append(line);
    }
    return std::string(trimmed(std::string_view(line).substr(colon + 1)));
  }
  return std::nullopt;
}

std::vector<unsigned> Reader::numbered(const std::string& folder,
                                       const std::string& prefix,
                                       const std::string& suffix) {
  std::vector<unsigned> numbers;
  note_hidden(unseen_, tree_, folder);
  for (const std::string& name : tree_.list(folder)) {
    if (name.size() <= prefix.size() + suffix.size() || !name.starts_with(prefix) ||
        !name.ends_with(suffix)) {
      continue;
    }
    const auto number = base::parse_number<unsigned>(
        name.substr(prefix.size(), name.size() - prefix.size() - suffix.size()));
    if (number && prefix + std::to_string(*number) + suffix == name) {
      numbers.push_back(*number);
      kept_.emplace(folder + "/" + name, std::nullopt);
    }
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

void Reader::doubt(const std::string& path, std::string_view found) {
  note(unseen_, path + ": not understood: " + quoted(found));
}

}  // namespace vmlaunch::launcher::survey
