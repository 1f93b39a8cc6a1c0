#pragma once

#include <string>
#include <vector>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"

namespace vmlaunch::launcher::plan {

/// Collects what is wrong, so that all of it is told at once.
class Problems {
 public:
  void add(ExitCode code, const std::string& text) {
    code_ = worse(code_, code);
    texts_.push_back(text);
  }
  void throw_if_any() const {
    if (!texts_.empty()) {
      throw Failure(code_, base::join(texts_, "\n"));
    }
  }

 private:
  ExitCode code_ = ExitCode::ended;
  std::vector<std::string> texts_;
};

}  // namespace vmlaunch::launcher::plan
