// Speaks to the monitor of a running QEMU: qmp_example [--trace] SOCKET [COMMAND [ARGUMENTS]]
// Prints what the command returned or, without one, events until QEMU ends. ARGUMENTS are JSON.

#include <chrono>
#include <exception>
#include <iostream>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include "qmp/client.hpp"
#include "qmp/ending.hpp"
#include "qmp/transport.hpp"

namespace {

namespace asio = boost::asio;
namespace qmp = vmlaunch::qmp;

constexpr std::chrono::seconds kPatience{10};

void trace(qmp::Direction direction, const std::string& message) {
  std::cerr << (direction == qmp::Direction::sent ? "> " : "< ") << message << '\n';
}

asio::awaitable<void> show_events(qmp::Subscription events) {
  qmp::Ending ending;
  while (!ending.close) {
    const qmp::Subscription::Item item = co_await events.next();
    if (const auto* event = std::get_if<qmp::Event>(&item)) {
      ending.note(*event);
      std::cout << event->name << ' ' << event->data.dump() << '\n';
    } else if (const auto* lost = std::get_if<qmp::Lost>(&item)) {
      std::cout << '(' << lost->count << " events came too fast)\n";
    } else {
      ending.close = std::get<qmp::CloseReason>(item);
    }
  }
  std::cout << qmp::judge(ending).text << '\n';
}

asio::awaitable<void> speak(asio::io_context& context,
                            std::vector<std::string> words,
                            bool traced) {
  vmlaunch::base::UniqueFd socket = co_await qmp::connect(context, words[0], kPatience);
  qmp::Client client(context, std::move(socket));
  if (traced) {
    client.log_to(trace);
  }
  qmp::Subscription events = client.subscribe(qmp::EventFilter());
  const qmp::Greeting greeting = co_await client.handshake(kPatience);
  if (words.size() == 1) {
    std::cout << "QEMU " << greeting.version << '\n';
    co_await show_events(std::move(events));
    co_return;
  }
  const qmp::Json arguments = words.size() > 2 ? qmp::Json::parse(words[2]) : qmp::Json();
  const qmp::Json value = co_await client.execute(words[1], arguments);
  std::cout << value.dump(2) << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  std::cout << std::unitbuf;
  std::vector<std::string> words(argv + 1, argv + argc);
  const bool traced = !words.empty() && words[0] == "--trace";
  if (traced) {
    words.erase(words.begin());
  }
  if (words.empty() || words.size() > 3) {
    std::cerr << "usage: qmp_example [--trace] SOCKET [COMMAND [ARGUMENTS]]\n";
    return 2;
  }
  int code = 0;
  asio::io_context context(1);
  asio::co_spawn(context, speak(context, words, traced), [&](const std::exception_ptr& failure) {
    try {
      if (failure) {
        std::rethrow_exception(failure);
      }
    } catch (const std::exception& error) {
      std::cerr << error.what() << '\n';
      code = 1;
    }
    context.stop();
  });
  context.run();
  return code;
}
