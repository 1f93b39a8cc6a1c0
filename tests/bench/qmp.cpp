// The QMP client beside a client in plain C, which sends the same bytes and looks for nothing but
// the end of the answer: both on one monitor of one QEMU, one after the other, and all three on one
// core, since otherwise idle cores that wake up make the same program now fast and now slow. The
// two take turns in blocks; each pair of blocks gives one ratio, and the median of the ratios is
// what counts.

#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include "base/errors.hpp"
#include "base/unique_fd.hpp"
#include "qmp/client.hpp"
#include "qmp/encoding.hpp"
#include "tests/support/program.hpp"
#include "tests/support/real_qemu.hpp"

namespace {

using namespace vmlaunch;
namespace asio = boost::asio;
using std::chrono::steady_clock;
using Times = std::vector<double>;  // microseconds

constexpr std::chrono::seconds kDeadline{60};
constexpr int kBlock = 500;      // commands; the fifth slowest is p99
constexpr int kSchemaPairs = 5;  // in each round, since each is one command only

double microseconds_since(steady_clock::time_point start) {
  return std::chrono::duration<double, std::micro>(steady_clock::now() - start).count();
}

/// The value that this part of all is not above; 0.5: the median.
double quantile(Times values, double part) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(part * static_cast<double>(values.size() - 1))];
}

double median(const Times& values) {
  return quantile(values, 0.5);
}

/// QEMU serves one client after the other.
base::UniqueFd connect(const std::string& path) {
  base::UniqueFd made(
      base::check(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "make a socket"));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  const auto connected = [&] {
    return ::connect(made.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  };
  if (!tests::eventually(connected, tests::Seconds(60))) {
    base::throw_errno("connect to " + path);
  }
  return made;
}

/// What no client can be faster than.
class RawClient {
 public:
  explicit RawClient(const std::string& path)
      : socket_(connect(path)), buffer_(std::size_t{256} * 1024) {
    receive();  // the greeting
    const qmp::Json enable = {{"enable", {"oob"}}};
    send(qmp::encode_command("qmp_capabilities", enable, id_));
    receive();
  }

  Times execute(const std::string& name, int count) {
    const std::string bytes = qmp::encode_command(name, nullptr, id_);
    Times times;
    for (int i = 0; i < count; ++i) {
      const auto start = steady_clock::now();
      send(bytes);
      receive();
      times.push_back(microseconds_since(start));
    }
    return times;
  }

 private:
  void send(const std::string& bytes) {
    base::check(::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), "send");
  }

  void receive() {
    ssize_t got = 0;
    do {
      got = base::check(::recv(socket_.get(), buffer_.data(), buffer_.size(), 0), "receive");
      if (got == 0) {
        throw std::runtime_error("QEMU ended");
      }
    } while (buffer_[static_cast<std::size_t>(got) - 1] != '\n');
  }

  base::UniqueFd socket_;
  std::vector<char> buffer_;
  qmp::Id id_ = qmp::Session::random_ids().first;
};

asio::awaitable<void> shake_hands(qmp::Client& client) {
  co_await client.handshake(kDeadline);
}

asio::awaitable<void> execute_all(qmp::Client& client, std::string name, int count, Times& times) {
  for (int i = 0; i < count; ++i) {
    const auto start = steady_clock::now();
    auto value = co_await client.execute(name, nullptr, kDeadline);
    times.push_back(microseconds_since(start));
  }
}

class OurClient {
 public:
  explicit OurClient(const std::string& path) : client_(context_, connect(path)) {
    finish(shake_hands(client_));
  }

  Times execute(const std::string& name, int count) {
    Times times;
    finish(execute_all(client_, name, count, times));
    return times;
  }

 private:
  void finish(asio::awaitable<void> call) {
    bool done = false;
    asio::co_spawn(context_, std::move(call), [&](const std::exception_ptr& error) {
      done = true;
      if (error) {
        std::rethrow_exception(error);
      }
    });
    context_.restart();
    while (!done) {
      context_.run_one();
    }
  }

  asio::io_context context_;
  qmp::Client client_;
};

bool report(const char* what, const std::string& measured, double value, double limit) {
  const bool met = value <= limit;
  std::printf("%-22s %-38s %8.2f  (at most %5.2f: %s)\n",
              what,
              measured.c_str(),
              value,
              limit,
              met ? "pass" : "FAIL");
  return met;
}

std::string both(double raw, double ours, double unit, const char* name) {
  std::array<char, 80> text{};
  std::snprintf(text.data(),
                text.size(),
                "raw %7.1f %s, client %7.1f %s",
                raw / unit,
                name,
                ours / unit,
                name);
  return text.data();
}

/// Times of one command, as often as said: by a client of its own, so that both use one monitor.
template <typename Client>
Times block(const std::string& path, const std::string& command, int count) {
  Client client(path);
  return client.execute(command, count);
}

bool measure_query_status(const std::string& path, int rounds) {
  struct Row {
    const char* name;
    double part;
    double limit;
    Times raw, ours, ratios;
  };
  std::vector<Row> rows = {{"query-status p50", 0.5, 1.15, {}, {}, {}},
                           {"query-status p99", 0.99, 1.25, {}, {}, {}}};
  for (int round = 0; round < rounds; ++round) {
    const Times raw = block<RawClient>(path, "query-status", kBlock);
    const Times ours = block<OurClient>(path, "query-status", kBlock);
    for (Row& row : rows) {
      row.raw.push_back(quantile(raw, row.part));
      row.ours.push_back(quantile(ours, row.part));
      row.ratios.push_back(row.ours.back() / row.raw.back());
    }
  }
  bool met = true;
  for (const Row& row : rows) {
    const std::string measured = both(median(row.raw), median(row.ours), 1, "us");
    met = report(row.name, measured, median(row.ratios), row.limit) && met;
  }
  return met;
}

// The 33 bytes of `{"execute":"query-status","id":1}` 33 bytes, a newline, and the other digits of
// an id that no other client has used.
bool measure_frame() {
  const qmp::Id id = qmp::Session::random_ids().first;
  const std::size_t size = qmp::encode_command("query-status", nullptr, id).size();
  return report("query-status bytes", "", static_cast<double>(size), 40);
}

bool measure_schema(const std::string& path, int rounds) {
  Times raw;
  Times ours;
  Times differences;
  for (int pair = 0; pair < kSchemaPairs * rounds; ++pair) {
    raw.push_back(block<RawClient>(path, "query-qmp-schema", 1).front());
    ours.push_back(block<OurClient>(path, "query-qmp-schema", 1).front());
    differences.push_back((ours.back() - raw.back()) / 1000);
  }
  const std::string measured = both(median(raw), median(ours), 1000, "ms");
  return report("query-qmp-schema ms", measured, median(differences), 3);
}

void stay_on_one_core() {
  cpu_set_t all{};
  base::check(::sched_getaffinity(0, sizeof all, &all), "ask for the cores");
  std::size_t last = CPU_SETSIZE - 1;
  while (!CPU_ISSET(last, &all)) {
    --last;
  }
  cpu_set_t one{};
  CPU_SET(last, &one);
  base::check(::sched_setaffinity(0, sizeof one, &one), "stay on one core");
}

bool measure(int rounds) {
  stay_on_one_core();  // QEMU inherits it
  const tests::Folder folder;
  const std::string path = folder.file("qmp");
  const tests::RealQemu qemu({{"-machine", "none", "-S"}, path});
  block<RawClient>(path, "query-status", kBlock);  // both once for the caches
  block<OurClient>(path, "query-status", kBlock);
  std::printf("QMP client beside raw C, %d rounds\n", rounds);
  const bool frame = measure_frame();
  const bool status = measure_query_status(path, rounds);
  const bool schema = measure_schema(path, rounds);
  return frame && status && schema;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: bench_qmp ROUNDS\n");
    return 2;
  }
  try {
    return measure(std::max(1, std::atoi(argv[1]))) ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
