#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <limits>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "base/byte_size.hpp"
#include "base/cpu_set.hpp"
#include "base/duration.hpp"
#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/idle.hpp"
#include "base/packet.hpp"
#include "base/pci_address.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "base/unique_fd.hpp"
#include "tests/support/catch.hpp"

namespace vmlaunch::base {
namespace {

using namespace std::chrono_literals;

bool is_open(int fd) {
  return ::fcntl(fd, F_GETFD) >= 0;
}

bool closes_on_exec(int fd) {
  return (::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0;
}

/// Succeeds if the action throws a system error with this errno.
template <typename Action>
void check_errno(int expected, Action action) {
  try {
    action();
    FAIL("nothing was thrown");
  } catch (const std::system_error& error) {
    CHECK(error.code().value() == expected);
  }
}

TEST_CASE("byte size: texts are read with units of 1024", "[base]") {
  struct Row {
    const char* text;
    std::uint64_t bytes;
  };
  for (const Row& row : {Row{"0", 0},
                         Row{"4096", 4096},
                         Row{"1K", 1024},
                         Row{"512M", 512 * kMiB},
                         Row{"12G", 12 * kGiB},
                         Row{"12GiB", 12 * kGiB},
                         Row{"2T", 2048 * kGiB},
                         Row{"18446744073709551615", UINT64_MAX},
                         Row{"007", 7}}) {
    INFO(row.text);
    REQUIRE(parse_byte_size(row.text));
    CHECK(parse_byte_size(row.text)->bytes == row.bytes);
  }
}

TEST_CASE("byte size: any other text is refused", "[base]") {
  for (const char* text : {"",
                           "K",
                           "G12",
                           "-1",
                           "+1",
                           "1 G",
                           " 1G",
                           "1G ",
                           "1g",
                           "1GB",
                           "1Gi",
                           "1iB",
                           "1GiBs",
                           "0x10",
                           "1.5G",
                           "1e3",
                           "18446744073709551616",
                           "18446744073709551615K",
                           "16777216T",
                           "1\n"}) {
    INFO(text);
    CHECK_FALSE(parse_byte_size(text));
  }
}

TEST_CASE("byte size: the text is the shortest that reads back the same", "[base]") {
  CHECK(to_string(ByteSize{0}) == "0");
  CHECK(to_string(ByteSize{1023}) == "1023");
  CHECK(to_string(ByteSize{1536}) == "1536");
  CHECK(to_string(ByteSize{1536 * kKiB}) == "1536K");
  CHECK(to_string(ByteSize{4096 * kGiB}) == "4T");
  CHECK(to_string(ByteSize{kGiB << 24U}) == "16384T");
  for (const std::uint64_t bytes :
       {std::uint64_t{0}, std::uint64_t{1}, kKiB, kMiB + 1, 3 * kGiB, kGiB << 20U, UINT64_MAX}) {
    CHECK(parse_byte_size(to_string(ByteSize{bytes})) == ByteSize{bytes});
  }
}

TEST_CASE("duration: texts are read with their unit", "[base]") {
  CHECK(parse_duration("500ms") == 500ms);
  CHECK(parse_duration("60s") == 60s);
  CHECK(parse_duration("5m") == 5min);
  CHECK(parse_duration("2h") == 2h);
  CHECK(parse_duration("0s") == 0ms);
  CHECK(parse_duration("0ms") == 0ms);
  CHECK(parse_duration("1000h") == 1000h);
}

TEST_CASE("duration: any other text is refused", "[base]") {
  for (const char* text : {"",
                           "5",
                           "s",
                           "ms",
                           "-5s",
                           "+5s",
                           "5 s",
                           " 5s",
                           "5s ",
                           "5S",
                           "5sec",
                           "5mss",
                           "1.5s",
                           "1001h",
                           "60001m",
                           "3600000001ms",
                           "18446744073709551616s",
                           "18446744073709551615h",
                           "1h30m",
                           "5d"}) {
    INFO(text);
    CHECK_FALSE(parse_duration(text));
  }
}

TEST_CASE("duration: the text is the shortest that reads back the same", "[base]") {
  CHECK(to_string(Milliseconds(0)) == "0s");
  CHECK(to_string(Milliseconds(90s)) == "90s");
  CHECK(to_string(Milliseconds(1500)) == "1500ms");
  CHECK(to_string(Milliseconds(120min)) == "2h");
  for (const Milliseconds duration : {Milliseconds(0),
                                      Milliseconds(1),
                                      Milliseconds(60001),
                                      Milliseconds(90min),
                                      Milliseconds(1000h)}) {
    CHECK(parse_duration(to_string(duration)) == duration);
  }
}

TEST_CASE("pci address: both forms are read and written as the kernel does", "[base]") {
  CHECK(parse_pci_address("0000:04:00.0") == PciAddress{0, 4, 0, 0});
  CHECK(parse_pci_address("04:1f.7") == PciAddress{0, 4, 0x1f, 7});
  CHECK(parse_pci_address("ABCD:Ef:0a.1") == PciAddress{0xabcd, 0xef, 0x0a, 1});
  CHECK(parse_pci_address("10000:e1:00.0") == PciAddress{0x10000, 0xe1, 0, 0});
  CHECK(parse_pci_address("ffffffff:ff:1f.7") == PciAddress{0xffffffff, 0xff, 0x1f, 7});
  CHECK(to_string(PciAddress{0, 4, 0x1f, 7}) == "0000:04:1f.7");
  CHECK(to_string(PciAddress{0x10000, 0xe1, 0, 0}) == "10000:e1:00.0");
  for (const char* text : {"0000:00:00.0", "ffff:ff:1f.7", "10000:e1:00.0", "ffffffff:01:02.3"}) {
    CHECK(to_string(parse_pci_address(text).value()) == text);
  }
}

TEST_CASE("pci address: any other text is refused", "[base]") {
  for (const char* text : {"",
                           "0",
                           "04:00",
                           "4:00.0",
                           "04:0.0",
                           "04:00.8",
                           "04:20.0",
                           "04:00.00",
                           "04-00.0",
                           "04:00:0",
                           "000:04:00.0",
                           "123456789:04:00.0",
                           ":04:00.0",
                           "0000-04:00.0",
                           "0000:04:00.0 ",
                           " 0000:04:00.0",
                           "0000:04:00.0/",
                           "../../04:00.0",
                           "0x00:04:00.0",
                           "0000:+4:00.0",
                           "0000:-4:00.0",
                           "gggg:04:00.0",
                           "0000:04:00.a",
                           "0000:04:00.0\n"}) {
    INFO(text);
    CHECK_FALSE(parse_pci_address(text));
  }
}

TEST_CASE("cpu set: the kernel's lists are read", "[base]") {
  CHECK(parse_cpu_set("") == CpuSet{});
  CHECK(parse_cpu_set("0") == CpuSet{0});
  CHECK(parse_cpu_set("2-5,8-9") == CpuSet{2, 3, 4, 5, 8, 9});
  CHECK(parse_cpu_set("5,2,5,2-3") == CpuSet{2, 3, 5});
  CHECK(parse_cpu_set("7-7,8191") == CpuSet{7, 8191});
  // Never octal, as in the kernel.
  CHECK(parse_cpu_set("08,010") == CpuSet{8, 10});
}

TEST_CASE("cpu set: any other text is refused", "[base]") {
  for (const char* text : {"08:09",        "1-",   "-1",     "-",          "5-2",
                           "1,",           ",1",   ",",      "1,,2",       " 1",
                           "1 ",           "1, 2", "1 -2",   "1- 2",       "1--2",
                           "1-2-3",        "8192", "0-8192", "4294967296", "99999999999999999999",
                           "0-4294967297", "0x1",  "a",      "1-8:1/2",    "all",
                           "^1",           "+1",   "1\n",    "1;2"}) {
    INFO(text);
    CHECK_FALSE(parse_cpu_set(text));
  }
}

TEST_CASE("cpu set: the text is the shortest that reads back the same", "[base]") {
  CHECK(to_string(CpuSet{}).empty());
  CHECK(to_string(CpuSet{3}) == "3");
  CHECK(to_string(CpuSet{0, 1, 2, 4, 6, 7}) == "0-2,4,6-7");
  for (const CpuSet& cpus : {CpuSet{}, CpuSet{0}, CpuSet{1, 3, 5}, CpuSet{0, 1, 2, 8190, 8191}}) {
    CHECK(parse_cpu_set(to_string(cpus)) == cpus);
  }
}

TEST_CASE("text: numbers are read whole or not at all", "[base]") {
  CHECK(parse_number<unsigned>("42") == 42U);
  CHECK(parse_number<std::uint8_t>("ff", 16) == std::uint8_t{255});
  for (const char* text : {"", "-1", "+1", " 1", "1 ", "1x", "256", "0x1"}) {
    INFO(text);
    CHECK_FALSE(parse_number<std::uint8_t>(text));
  }
}

TEST_CASE("text: split gives the pieces between separators", "[base]") {
  CHECK(split("", ',') == std::vector<std::string>{""});
  CHECK(split("a", ',') == std::vector<std::string>{"a"});
  CHECK(split("a,,b,", ',') == std::vector<std::string>{"a", "", "b", ""});
  CHECK(split(",", ',') == std::vector<std::string>{"", ""});
}

TEST_CASE("text: join puts the separator between pieces", "[base]") {
  CHECK(join({}, ", ").empty());
  CHECK(join({"a"}, ", ") == "a");
  CHECK(join({"a", "b", "c"}, ", ") == "a, b, c");
  CHECK(join({"a", "", "c"}, ",") == "a,,c");
}

TEST_CASE("text: join undoes split", "[base]") {
  for (const char* text : {"", "a", "a,b", "a,", ",", ",a", ",,a"}) {
    INFO(text);
    CHECK(join(split(text, ','), ",") == text);
  }
}

TEST_CASE("text: printable shows control characters and nothing else changed", "[base]") {
  CHECK(printable("a b~é") == "a b~é");
  CHECK(printable(std::string("\x1b[2J\r\n\t\x7f\0z", 10)) == "\\x1b[2J\\x0d\\x0a\\x09\\x7f\\x00z");
}

TEST_CASE("text: printable shows the control characters above ASCII too", "[base]") {
  // U+009B begins a terminal's control sequence like ESC [ does.
  CHECK(printable("\xc2\x9b") == "\\xc2\\x9b");
  CHECK(printable("\x9b") == "\\x9b");
}

TEST_CASE("text: shell quoting keeps plain words and protects all others", "[base]") {
  CHECK(shell_quote("/dev/vfio/14") == "/dev/vfio/14");
  CHECK(shell_quote("a=b,c:d@e%f+g-h_i.j") == "a=b,c:d@e%f+g-h_i.j");
  CHECK(shell_quote("").size() == 2);
  CHECK(shell_quote("a b") == "'a b'");
  CHECK(shell_quote("it's") == "'it'\\''s'");
  for (const char* word : {"$HOME", "`id`", "a;b", "*", "~", "#x", "é", "\"", "\\", "{a,b}"}) {
    INFO(word);
    CHECK(shell_quote(word) == "'" + std::string(word) + "'");
  }
  CHECK(shell_quote("a\nb") == R"('a'$'\012''b')");
  CHECK(shell_quote("\x1b[2J\xff") == R"(''$'\033''[2J'$'\377''')");
}

TEST_CASE("text: the nearest candidate is found and a far one is not", "[base]") {
  const std::vector<std::string> keys = {"memory", "cpus", "devices", "qemu"};
  CHECK(nearest("memroy", keys) == "memory");
  CHECK(nearest("cpu", keys) == "cpus");
  CHECK(nearest("device", keys) == "devices");
  CHECK(nearest("memory", keys) == "memory");
  CHECK_FALSE(nearest("network", keys));
  CHECK_FALSE(nearest("anything", {}));
  CHECK(nearest("ab", {"abc", "abd"}) == "abc");
}

TEST_CASE("unique fd: it closes what it owns, once", "[base]") {
  int number = -1;
  {
    const UniqueFd fd = duplicate(STDIN_FILENO);
    number = fd.get();
    CHECK(static_cast<bool>(fd));
    CHECK(is_open(number));
    CHECK(closes_on_exec(number));
  }
  CHECK_FALSE(is_open(number));
}

TEST_CASE("unique fd: a move hands the descriptor over", "[base]") {
  UniqueFd first = duplicate(STDIN_FILENO);
  const int number = first.get();
  UniqueFd second(std::move(first));
  CHECK(second.get() == number);
  // NOLINTNEXTLINE(bugprone-use-after-move,clang-analyzer-cplusplus.Move): that is the point
  CHECK(first.get() == -1);

  UniqueFd third = duplicate(STDIN_FILENO);
  const int replaced = third.get();
  third = std::move(second);
  CHECK(third.get() == number);
  CHECK(is_open(number));
  CHECK_FALSE(is_open(replaced));
}

TEST_CASE("unique fd: a move to itself changes nothing", "[base]") {
  UniqueFd fd = duplicate(STDIN_FILENO);
  const int number = fd.get();
  UniqueFd& alias = fd;
  fd = std::move(alias);
  CHECK(fd.get() == number);
  CHECK(is_open(number));
}

TEST_CASE("unique fd: release gives up and reset replaces", "[base]") {
  UniqueFd fd = duplicate(STDIN_FILENO);
  const int number = fd.release();
  CHECK(fd.get() == -1);
  CHECK(is_open(number));
  fd.reset(number);
  fd.reset();
  CHECK_FALSE(is_open(number));
}

TEST_CASE("errors: the text names the action and the cause", "[base]") {
  try {
    throw_errno(EBUSY, "bind 0000:01:00.0");
  } catch (const std::system_error& error) {
    CHECK(error.what() == std::string("Cannot bind 0000:01:00.0: Device or resource busy"));
    CHECK(error.code() == std::errc::device_or_resource_busy);
  }
  CHECK(error_text(ENOENT) == "No such file or directory");
  CHECK(check(7, "count") == 7);
  check_errno(EBADF, [] { check(::close(-1), "close nothing"); });
}

TEST_CASE("file: a missing file is named in the error", "[base]") {
  CHECK_THROWS_WITH(read_file("/nonexistent/file"),
                    "Cannot open /nonexistent/file: No such file or directory");
}

TEST_CASE("file: bytes go through a pipe whole, up to the limit", "[base]") {
  const std::string content(10000, 'x');
  for (const std::size_t limit : {std::size_t{10000}, std::size_t{9999}}) {
    Pipe pipe = make_pipe();
    CHECK(closes_on_exec(pipe.read_end.get()));
    CHECK(closes_on_exec(pipe.write_end.get()));
    write_all(pipe.write_end.get(), content, "the pipe");
    pipe.write_end.reset();
    if (limit == content.size()) {
      CHECK(read_all(pipe.read_end.get(), limit, "the pipe") == content);
    } else {
      check_errno(EFBIG, [&] { static_cast<void>(read_all(pipe.read_end.get(), limit, "it")); });
    }
  }
}

TEST_CASE("packet: bytes and descriptors arrive together", "[base]") {
  const auto [left, right] = make_socket_pair(SOCK_SEQPACKET);
  Pipe pipe = make_pipe();
  send_packet(left.get(), std::string("a\0b", 3), {pipe.write_end.get(), pipe.write_end.get()});
  send_packet(left.get(), "second");

  auto packet = receive_packet(right.get());
  REQUIRE(packet);
  CHECK(packet->bytes == std::string("a\0b", 3));
  REQUIRE(packet->fds.size() == 2);
  CHECK(closes_on_exec(packet->fds[0].get()));
  pipe.write_end.reset();
  write_all(packet->fds[1].get(), "through", "the pipe");
  packet->fds.clear();
  CHECK(read_all(pipe.read_end.get(), 100, "the pipe") == "through");

  packet = receive_packet(right.get());
  REQUIRE(packet);
  CHECK(packet->bytes == "second");
  CHECK(packet->fds.empty());
}

TEST_CASE("packet: the largest packet passes and a larger one is refused", "[base]") {
  const auto [left, right] = make_socket_pair(SOCK_SEQPACKET);
  const std::vector<int> fds(kPacketFdLimit, STDIN_FILENO);
  const std::string bytes(kPacketLimit, 'x');
  send_packet(left.get(), bytes, fds);
  const auto packet = receive_packet(right.get());
  REQUIRE(packet);
  CHECK(packet->bytes == bytes);
  CHECK(packet->fds.size() == kPacketFdLimit);

  const int socket = left.get();
  check_errno(EMSGSIZE, [&] { send_packet(socket, bytes + "x"); });
  check_errno(EMSGSIZE, [&] {
    send_packet(socket, "x", std::vector<int>(kPacketFdLimit + 1, STDIN_FILENO));
  });
}

TEST_CASE("packet: one that was cut is refused and its descriptors are closed", "[base]") {
  const auto [left, right] = make_socket_pair(SOCK_SEQPACKET);
  Pipe pipe = make_pipe();
  const int fd = pipe.write_end.get();
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  std::string bytes(kPacketLimit + 1, 'x');
  iovec data{bytes.data(), bytes.size()};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = static_cast<char*>(control);
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  *reinterpret_cast<int*>(CMSG_DATA(header)) = fd;
  REQUIRE(::sendmsg(left.get(), &message, 0) == static_cast<ssize_t>(bytes.size()));

  const int socket = right.get();
  check_errno(EMSGSIZE, [&] { static_cast<void>(receive_packet(socket)); });
  // A copy that was left open would keep the pipe from ending.
  pipe.write_end.reset();
  CHECK(wait_readable(pipe.read_end.get(), std::chrono::steady_clock::now() + 10s));
  CHECK(read_all(pipe.read_end.get(), 1, "the pipe").empty());
}

TEST_CASE("packet: a peer that is gone is told to both sides", "[base]") {
  auto [left, right] = make_socket_pair(SOCK_SEQPACKET);
  send_packet(left.get(), "last");
  left.reset();
  CHECK(receive_packet(right.get())->bytes == "last");
  CHECK_FALSE(receive_packet(right.get()));
  const int socket = right.get();
  check_errno(EPIPE, [&] { send_packet(socket, "x"); });
}

TEST_CASE("packet: a peer that died with unread packets is gone too", "[base]") {
  auto [left, right] = make_socket_pair(SOCK_SEQPACKET);
  send_packet(right.get(), "never read");
  left.reset();
  CHECK_FALSE(receive_packet(right.get()));
}

/// A child that ends at once.
Child exiting_child(int code) {
  Child child = fork_child("a test");
  if (child.pid == 0) {
    ::_exit(code);
  }
  return child;
}

/// A child that waits for a signal.
Child waiting_child() {
  Child child = fork_child("a test");
  if (child.pid == 0) {
    for (;;) {
      ::pause();
    }
  }
  return child;
}

TEST_CASE("process: a child's exit code is reaped once it has ended", "[base]") {
  const Child child = exiting_child(7);
  CHECK(child.pid > 0);
  CHECK(closes_on_exec(child.pidfd.get()));
  const auto status = reap_within(child.pidfd.get(), 10s);
  REQUIRE(status);
  CHECK(*status == ExitStatus{7, 0});
  CHECK(to_string(*status) == "exit code 7");
  check_errno(ECHILD, [&] { static_cast<void>(try_reap(child.pidfd.get())); });
  CHECK_FALSE(send_signal(child.pidfd.get(), SIGTERM));
}

TEST_CASE("process: a child that runs is not reaped, and its signal is told", "[base]") {
  const Child child = waiting_child();
  CHECK_FALSE(try_reap(child.pidfd.get()));
  CHECK_FALSE(reap_within(child.pidfd.get(), 0ms));
  CHECK(send_signal(child.pidfd.get(), 0));
  CHECK(send_signal(child.pidfd.get(), SIGKILL));
  const auto status = reap_within(child.pidfd.get(), 10s);
  REQUIRE(status);
  CHECK(*status == ExitStatus{0, SIGKILL});
  CHECK(to_string(*status) == "SIGKILL");
}

TEST_CASE("process: a wait ends at its deadline or when there is something to read", "[base]") {
  const Pipe pipe = make_pipe();
  const auto now = std::chrono::steady_clock::now();
  CHECK_FALSE(wait_readable(pipe.read_end.get(), now));
  CHECK_FALSE(wait_readable(pipe.read_end.get(), now + 5ms));
  CHECK(std::chrono::steady_clock::now() >= now + 5ms);
  write_all(pipe.write_end.get(), "x", "the pipe");
  CHECK(wait_readable(pipe.read_end.get(), now));
  CHECK(wait_readable(pipe.read_end.get(), std::chrono::steady_clock::time_point::max()));
}

TEST_CASE("process: signals have their names", "[base]") {
  CHECK(signal_name(SIGTERM) == "SIGTERM");
  CHECK(signal_name(SIGKILL) == "SIGKILL");
  CHECK(signal_name(SIGSYS) == "SIGSYS");
  CHECK(signal_name(0) == "signal 0");
  CHECK(signal_name(-1) == "signal -1");
  CHECK(signal_name(40) == "signal 40");
  CHECK(signal_name(1000) == "signal 1000");
}

TEST_CASE("text: a fingerprint is the published one", "[base]") {
  CHECK(hex(fingerprint(""), 16) == "cbf29ce484222325");
  CHECK(hex(fingerprint("a"), 16) == "af63dc4c8601ec8c");
  CHECK(hex(fingerprint("foobar"), 16) == "85944171f73967e8");
}

TEST_CASE("idle: the memory of code is given back, and the code still runs", "[base]") {
  // Of pages: all, resident, and of these those of files (proc(5)).
  const auto of_files = [] {
    std::istringstream pages(read_file("/proc/self/statm"));
    std::size_t all = 0;
    std::size_t resident = 0;
    std::size_t shared = 0;
    pages >> all >> resident >> shared;
    return shared;
  };
  const std::size_t before = of_files();
  give_back_code();
  CHECK(of_files() < before);
  CHECK(to_string(CpuSet{1, 2, 3}) == "1-3");
}

}  // namespace
}  // namespace vmlaunch::base
