#pragma once

#include <map>
#include <string>

#include "launcher/steps/lock.hpp"
#include "launcher/steps/step.hpp"

namespace vmlaunch::launcher::steps {

/// What one run keeps from others for as long as this lives: a lock for each name that its steps
/// reserve.
class Reservations {
 public:
  /// Throws Failure (held) with whoever has what `step` reserves.
  void take(const std::string& folder, const Step& step);

  /// The same without taking anything.
  static void require_free(const std::string& folder, const Step& step);

 private:
  std::map<std::string, Lock> locks_;
};

}  // namespace vmlaunch::launcher::steps
