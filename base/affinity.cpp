#include "base/affinity.hpp"

#include <sched.h>

#include <cerrno>
#include <vector>

#include <climits>

namespace vmlaunch::base {

namespace {

/// One bit for each CPU that there may be, in the kernel's form.
constexpr std::size_t kBits = sizeof(unsigned long) * CHAR_BIT;
constexpr std::size_t kWords = 8192 / kBits;  // as parse_cpu_set's limit

using Words = std::vector<unsigned long>;

cpu_set_t* mask_of(Words& words) {
  return reinterpret_cast<cpu_set_t*>(words.data());
}

}  // namespace

CpuSet affinity_of(pid_t thread) {
  Words words(kWords);
  CpuSet cpus;
  if (::sched_getaffinity(thread, words.size() * sizeof words[0], mask_of(words)) != 0) {
    return cpus;
  }
  for (unsigned cpu = 0; cpu < kWords * kBits; ++cpu) {
    if ((words[cpu / kBits] >> (cpu % kBits) & 1UL) != 0) {
      cpus.insert(cpu);
    }
  }
  return cpus;
}

int set_affinity(pid_t thread, const CpuSet& cpus) {
  Words words(kWords);
  for (const unsigned cpu : cpus) {
    words.at(cpu / kBits) |= 1UL << (cpu % kBits);
  }
  return ::sched_setaffinity(thread, words.size() * sizeof words[0], mask_of(words)) == 0 ? 0
                                                                                          : errno;
}

}  // namespace vmlaunch::base
