#include "launcher/steps/kernel_log.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/text.hpp"

namespace vmlaunch::launcher::steps {

namespace {

struct Record {
  std::uint64_t number = 0;
  std::string text;
};

/// "6,1234,5678901,-;vfio-pci 0000:01:00.0: resetting" and perhaps lines of details.
Record parse(const std::string& bytes) {
  const std::size_t begin = bytes.find(';');
  const std::vector<std::string> head = base::split(bytes.substr(0, begin), ',');
  Record record;
  if (begin != std::string::npos && head.size() >= 2) {
    record.number = base::parse_number<std::uint64_t>(head[1]).value_or(0);
    record.text = bytes.substr(begin + 1, bytes.find('\n', begin) - begin - 1);
  }
  return record;
}

}  // namespace

KernelLog read_kernel_log(const base::Tree& tree,
                          const std::vector<std::string>& about,
                          std::uint64_t since) {
  KernelLog log{since, {}};
  const base::UniqueFd fd = tree.open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
  if (!fd) {
    return log;
  }
  std::array<char, 8192> buffer{};  // the longest record that the kernel writes
  for (;;) {
    const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && (errno == EPIPE || errno == EINTR)) {
      continue;  // what was about to be read has been overwritten
    }
    if (got <= 0) {
      return log;
    }
    const Record record = parse({buffer.data(), static_cast<std::size_t>(got)});
    const bool is_about = std::any_of(about.begin(), about.end(), [&](const std::string& word) {
      return record.text.find(word) != std::string::npos;
    });
    if (record.number >= since && is_about) {
      log.lines.push_back(record.text);
    }
    log.next = std::max(log.next, record.number + 1);
  }
}

}  // namespace vmlaunch::launcher::steps
