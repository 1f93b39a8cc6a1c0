#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/support/program.hpp"

/// What benchmarks of a start share: vmlaunch and bare QEMU with the same arguments take turns,
/// each round gives one ratio, and the median of the ratios is what counts, since absolute times do
/// not travel from machine to machine.
namespace vmlaunch::bench {

using Json = nlohmann::json;

[[nodiscard]] double milliseconds_since(std::chrono::steady_clock::time_point start);

[[nodiscard]] double median(std::vector<double> values);

/// The plan of a config, in JSON. Ends the program when there is none.
[[nodiscard]] Json plan_of(const std::string& config);

/// A start, until the guest runs, and a stop, until all is reaped: in ms.
struct Life {
  double start = 0;
  double stop = 0;
};

/// QEMU's as the plan has it, by fork, exec and socket pairs.
[[nodiscard]] Life bare_life(const Json& plan);

/// Becomes that program, in a child.
[[noreturn]] void become(std::vector<std::string> words);

/// The processor time of all that has ended below this process, in ms.
[[nodiscard]] double childrens_time();

/// The sum of the numbers behind `name`, in the lines of a file that begin so.
[[nodiscard]] double number_in(const std::string& path, const std::string& name);

/// From the start of vmlaunch to the running guest, in ms. It is killed then.
[[nodiscard]] double our_start(const std::string& config);

/// As three times Ctrl-C; returns when the host is as it was.
void end_in_a_hurry(tests::Program& program);

/// One line with the medians, and the ratio beside its limit; true when that is met.
[[nodiscard]] bool report(const std::string& what,
                          const std::vector<double>& bare,
                          const std::vector<double>& ours,
                          double limit);

}  // namespace vmlaunch::bench
