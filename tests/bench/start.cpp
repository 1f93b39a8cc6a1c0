// From the start of the command to the running guest: vmlaunch beside bare QEMU with the same
// arguments, files and descriptors.

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "tests/bench/rounds.hpp"

using namespace vmlaunch::bench;

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: bench_start CONFIG ROUNDS\n");
    return 2;
  }
  const std::string config = std::string(argv[1]).front() == '/'
                                 ? argv[1]
                                 : std::string(::get_current_dir_name()) + "/" + argv[1];
  const int rounds = std::max(1, std::atoi(argv[2]));
  const Json plan = plan_of(config);
  static_cast<void>(bare_life(plan).start);  // both once for the caches
  static_cast<void>(our_start(config));
  std::vector<double> bare;
  std::vector<double> ours;
  for (int round = 0; round < rounds; ++round) {
    bare.push_back(bare_life(plan).start);
    ours.push_back(our_start(config));
  }
  return report("start to running", bare, ours, 1.15) ? 0 : 1;
}
