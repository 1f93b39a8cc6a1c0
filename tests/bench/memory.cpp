// Huge pages of 2 MiB, from the start of the command until the guest runs with them: vmlaunch,
// which fills the pool piece by piece and has QEMU touch the pages on all CPUs, beside one write to
// the pool and QEMU with prealloc-threads=1. A host that is a virtual machine itself may lose its
// free memory to its own host within milliseconds, and gets it back page by page when it is
// touched, which says nothing of vmlaunch. So the parts are measured apart: the filling, which
// touches nothing, with an empty pool; the rest with a pool that stays filled, whose pages nobody
// takes. Needs root.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/bench/rounds.hpp"
#include "tests/support/program.hpp"

using namespace vmlaunch::bench;

namespace {

constexpr const char* kPool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

long read_pool() {
  long pages = -1;
  std::ifstream(kPool) >> pages;
  return pages;
}

void write_pool(long pages) {
  std::ofstream(kPool) << pages;
  if (const long got = read_pool(); got != pages) {
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

/// The seconds at the beginning of a line of vmlaunch's: "[  0.015s] plan sealed".
double stamp_of(const std::string& line) {
  return line.starts_with('[') ? std::stod(line.substr(1)) : 0;
}

/// How long vmlaunch takes for its step, in ms: from the line before it to its own.
double our_filling(const std::string& config) {
  vmlaunch::tests::Launch launch;
  launch.arguments = {VMLAUNCH_PROGRAM, config};
  vmlaunch::tests::Program program(launch);
  const bool filled = program.says("] set aside ");
  end_in_a_hurry(program);
  std::istringstream lines(program.output());
  double before = 0;
  for (std::string line; std::getline(lines, line); before = stamp_of(line)) {
    if (filled && line.find("] set aside ") != std::string::npos) {
      return (stamp_of(line) - before) * 1000;
    }
  }
  throw std::runtime_error(program.output());
}

double bare_filling(long pages) {
  const auto start = std::chrono::steady_clock::now();
  write_pool(pages);
  const double elapsed = milliseconds_since(start);
  write_pool(0);
  return elapsed;
}

bool measure(int gigabytes, int rounds) {
  const vmlaunch::tests::Folder folder;
  const std::string size = std::to_string(gigabytes) + "G";
  const std::string config = folder.write(
      "huge.json",
      Json{{"name", "bench-huge"}, {"memory", {{"size", size}, {"hugepages", "2M"}}}}.dump());
  const Json plan = with_one_thread(plan_of(config));
  const long pages = gigabytes * 512L;
  std::vector<double> bare;
  std::vector<double> ours;
  for (int round = 0; round < rounds; ++round) {
    bare.push_back(bare_filling(pages));
    ours.push_back(our_filling(config));
  }
  const double bare_median = median(bare);
  std::printf("%s of huge pages set aside, %d rounds: one write %.1f ms, vmlaunch %.1f ms\n",
              size.c_str(),
              rounds,
              bare_median,
              median(ours));
  write_pool(pages);
  for (int round = -1; round < rounds; ++round) {
    const double bare_time = bare_life(plan).start;
    const double our_time = our_start(config);
    if (round >= 0) {  // both once for the caches, and for the pages to be there
      bare[static_cast<std::size_t>(round)] += bare_time;
      ours[static_cast<std::size_t>(round)] += our_time;
    }
  }
  write_pool(0);
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
  if (read_pool() != 0) {
    std::fprintf(stderr, "the pool of huge pages must be empty; it has %ld\n", read_pool());
    return 2;
  }
  const bool small = measure(2, rounds);
  return measure(8, rounds) && small ? 0 : 1;
}
