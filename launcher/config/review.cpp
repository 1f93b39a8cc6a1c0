#include "launcher/config/review.hpp"

#include <algorithm>

namespace vmlaunch::launcher::config {

namespace {

/// Whether `upper` is `pointer` or one of its parents.
bool holds(const std::string& upper, const std::string& pointer) {
  return pointer.starts_with(upper) &&
         (pointer.size() == upper.size() || pointer[upper.size()] == '/');
}

}  // namespace

bool Review::unread(const std::string& pointer) const {
  return std::any_of(unread_.begin(), unread_.end(), [&](const Issue& issue) {
    return !issue.at_key && holds(issue.pointer, pointer);
  });
}

void Review::report(const std::string& pointer, const std::string& message) {
  if (!unread(pointer)) {
    issues_.push_back({pointer, message});
  }
}

void Review::report_without(const std::string& needed,
                            const std::string& key,
                            const std::string& message) {
  if (!unread(needed)) {
    report(key, message);
  }
}

std::string Review::path(const std::string& pointer, const std::string& written) {
  if (written.empty()) {
    report(pointer, "an empty path");
    return written;
  }
  return (file_.parent_path() / written).lexically_normal().string();
}

}  // namespace vmlaunch::launcher::config
