#include "qmp/deadlines.hpp"

#include <algorithm>
#include <array>

namespace vmlaunch::qmp {

namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

struct Row {
  std::string_view start;  ///< of the command's name
  milliseconds deadline;
};

constexpr milliseconds kUsual = seconds(5);

// The first row that fits counts.
constexpr std::array kTable = {
    Row{"snapshot-", std::chrono::hours(1)},  // writes the guest's memory
    Row{"dump-guest-memory", std::chrono::hours(1)},
    Row{"pmemsave", minutes(10)},
    Row{"memsave", minutes(10)},
    Row{"block-job-", minutes(10)},  // waits for what is in flight
    Row{"job-", minutes(10)},
    Row{"block_resize", minutes(10)},
    Row{"transaction", minutes(10)},
    Row{"drive-", minutes(1)},  // opens the files of a mirror or a backup
    Row{"blockdev-", minutes(1)},
    Row{"block-", minutes(1)},
    Row{"device_", minutes(1)},
    Row{"object-", minutes(1)},  // allocates memory
    Row{"netdev_", minutes(1)},
    Row{"chardev-", minutes(1)},
    Row{"human-monitor-command", minutes(1)},
    Row{"screendump", minutes(1)},
    Row{"cont", minutes(1)},  // opens disks after a migration
    Row{"stop", minutes(1)},  // waits for the disks
    Row{"quit", seconds(30)},
    Row{"query-qmp-schema", seconds(30)},
    Row{"qom-list-types", seconds(30)},
    Row{"query-cpu-", seconds(30)},
};

}  // namespace

milliseconds usual_deadline(std::string_view command) {
  const auto* row = std::find_if(
      kTable.begin(), kTable.end(), [&](const Row& one) { return command.starts_with(one.start); });
  return row == kTable.end() ? kUsual : row->deadline;
}

milliseconds clamp_deadline(milliseconds deadline) {
  constexpr milliseconds kLongest = std::chrono::hours(24 * 365);
  return std::clamp(deadline, milliseconds(0), kLongest);
}

milliseconds deadline_of_bytes(std::size_t bytes) {
  constexpr std::size_t kMicrosecondsPerByte = 3;
  return milliseconds(bytes * kMicrosecondsPerByte / 1000);
}

}  // namespace vmlaunch::qmp
