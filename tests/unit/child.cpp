#include "tests/unit/child.hpp"

#include <grp.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <exception>
#include <sstream>
#include <vector>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/process.hpp"

namespace vmlaunch::tests {

namespace {

constexpr std::chrono::seconds kLimit{20};
constexpr std::size_t kMostOutput = std::size_t{1} << 20U;

std::string run(const std::function<std::string()>& action) {
  try {
    return action();
  } catch (const std::exception& error) {
    return std::string("threw: ") + error.what();
  }
}

}  // namespace

std::string in_child(const std::function<std::string()>& action) {
  base::Pipe pipe = base::make_pipe();
  const base::Child child = base::fork_child("a child of the test");
  if (child.pid == 0) {
    pipe.read_end.reset();
    const std::string text = run(action);
    base::write_all(pipe.write_end.get(), text, "the result");
    ::_exit(0);
  }
  pipe.write_end.reset();
  const auto deadline = std::chrono::steady_clock::now() + kLimit;
  std::string text;
  if (base::wait_readable(pipe.read_end.get(), deadline)) {
    text = base::read_all(pipe.read_end.get(), kMostOutput, "the result");
  }
  auto status = base::reap_within(child.pidfd.get(), kLimit);
  if (!status) {
    static_cast<void>(base::send_signal(child.pidfd.get(), SIGKILL));
    status = base::reap_within(child.pidfd.get(), kLimit);
  }
  return status == base::ExitStatus{} ? text
                                      : "died: " + (status ? base::to_string(*status) : "never");
}

std::string as_user(uid_t uid, const std::function<std::string()>& action) {
  return in_child([&] {
    base::check(::setgroups(0, nullptr), "drop the groups");
    base::check(::setresgid(uid, uid, uid), "change the gid");
    base::check(::setresuid(uid, uid, uid), "change the uid");
    return action();
  });
}

std::string status_lines(const std::string& status, const std::vector<std::string>& names) {
  std::string lines;
  for (const std::string& name : names) {
    std::istringstream text("\n" + status);
    for (std::string line; std::getline(text, line);) {
      if (line.starts_with(name + ":")) {
        std::string value;
        std::istringstream words(line.substr(name.size() + 1));
        for (std::string word; words >> word;) {
          value += " " + word;
        }
        lines += (lines.empty() ? "" : "; ") + name + ":" + value;
      }
    }
  }
  return lines;
}

}  // namespace vmlaunch::tests
