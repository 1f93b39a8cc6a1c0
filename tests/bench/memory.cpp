// Huge pages of 2 MiB, from the start of the command until the guest runs with them: vmlaunch,
// which fills the pool piece by piece and has QEMU touch the pages on all CPUs, beside one write to
// the pool and QEMU with prealloc-threads=1. Needs root, and memory that the host has touched
// before.

#include <sys/sysinfo.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>

#include "tests/bench/rounds.hpp"
#include "tests/support/program.hpp"

using namespace vmlaunch::bench;

namespace {

constexpr const char* kPool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

void write_pool(long pages) {
  std::ofstream(kPool) << pages;
  long got = -1;
  std::ifstream(kPool) >> got;
  if (got != pages) {
    throw std::runtime_error("there are " + std::to_string(got) + " huge pages, not " +
                             std::to_string(pages));
  }
}

/// The plan's QEMU as people start it: its memory is touched by one thread.
Json with_one_thread(Json plan) {
  Json arguments = Json::array();
  for (const std::string word : plan["qemu"]["arguments"]) {
    Json value = word.starts_with('{') ? Json::parse(word) : Json();
    if (value.is_object() && value.value("qom-type", "") == "thread-context") {
      arguments.erase(arguments.end() - 1);  // "-object"
      continue;
    }
    if (value.is_object() && value.contains("prealloc-threads")) {
      value["prealloc-threads"] = 1;
      value.erase("prealloc-context");
    }
    arguments.push_back(value.is_object() ? value.dump() : word);
  }
  plan["qemu"]["arguments"] = arguments;
  return plan;
}

bool measure(int gigabytes, int rounds) {
  const vmlaunch::tests::Folder folder;
  const std::string size = std::to_string(gigabytes) + "G";
  const std::string config = folder.write(
      "huge.json",
      Json{{"name", "bench-huge"}, {"memory", {{"size", size}, {"hugepages", "2M"}}}}.dump());
  const Json plan = with_one_thread(plan_of(config));
  std::vector<double> bare;
  std::vector<double> ours;
  for (int round = 0; round <= rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    write_pool(gigabytes * 512L);
    const double filled = milliseconds_since(start);
    const double bare_time = filled + bare_start(plan);
    write_pool(0);
    const double our_time = our_start(config);
    if (round > 0) {  // both once for the caches
      bare.push_back(bare_time);
      ours.push_back(our_time);
    }
  }
  const auto [least, most] = std::minmax_element(ours.begin(), ours.end());
  const double spread = *most / *least;
  const bool met = report(size + " of huge pages to running", bare, ours, 0.7);
  std::printf("%s of huge pages, slowest beside fastest: %.3f (at most 1.30: %s)\n",
              size.c_str(),
              spread,
              spread <= 1.3 ? "met" : "missed");
  return met && spread <= 1.3;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: bench_memory ROUNDS\n");
    return 2;
  }
  const int rounds = std::max(1, std::atoi(argv[1]));
  long pages = -1;
  std::ifstream(kPool) >> pages;
  if (pages != 0) {
    std::fprintf(stderr, "the pool of huge pages must be empty; it has %ld\n", pages);
    return 2;
  }
  const bool small = measure(2, rounds);
  return measure(8, rounds) && small ? 0 : 1;
}
