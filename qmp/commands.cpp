#include "qmp/commands.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "base/text.hpp"
#include "qmp/values.hpp"

namespace vmlaunch::qmp {

namespace {

namespace asio = boost::asio;
using std::chrono::milliseconds;

std::int64_t integer_in(const Json& result, const char* key) {
  const auto value = integer_of(result, key);
  if (!value) {
    throw ProtocolError(std::string("QEMU returned no number as ") + key);
  }
  return *value;
}

bool is_safe(const Json& number) {
  constexpr std::uint64_t kLargest = std::numeric_limits<std::int64_t>::max();
  return number.is_number_unsigned()
             ? number.get<std::uint64_t>() <= kLargest
             : number.is_number_integer() && number.get<std::int64_t>() >= 0;
}

void check_numbers(const std::string& key, const Json& value) {
  if (value.is_number() && !is_safe(value)) {
    throw std::invalid_argument("Cannot add an object with " + base::printable(key) + " " +
                                value.dump() + ": it must be a whole number from 0 to 2^63 - 1");
  }
  if (value.is_structured()) {
    for (const auto& [name, member] : value.items()) {
      check_numbers(value.is_object() ? name : key, member);
    }
  }
}

asio::awaitable<void> execute_add(Client& client, Json arguments, milliseconds deadline) {
  const std::string command = "object-add";
  co_await client.execute(command, arguments, deadline);
}

asio::awaitable<Json> execute_with_fd(
    Client& client, std::string command, Json arguments, base::UniqueFd fd, milliseconds deadline) {
  std::vector<base::UniqueFd> fds;
  fds.push_back(std::move(fd));
  co_return co_await client.execute_with_fds(command, arguments, std::move(fds), deadline);
}

}  // namespace

asio::awaitable<RunState> query_status(Client& client, milliseconds deadline) {
  const std::string command = "query-status";
  const Json nothing;
  const Json result = co_await client.execute(command, nothing, deadline);
  RunState state;
  state.running = flag_of(result, "running");
  state.name = text_of(result, "status");
  if (state.name.empty()) {
    throw ProtocolError("QEMU returned no status");
  }
  co_return state;
}

asio::awaitable<std::vector<Vcpu>> query_cpus(Client& client, milliseconds deadline) {
  const std::string command = "query-cpus-fast";
  const Json nothing;
  const Json result = co_await client.execute(command, nothing, deadline);
  if (!result.is_array()) {
    throw ProtocolError("QEMU returned no list of CPUs");
  }
  std::vector<Vcpu> vcpus;
  vcpus.reserve(result.size());
  for (const Json& entry : result) {
    const std::int64_t thread = integer_in(entry, "thread-id");
    if (thread <= 0 || thread > std::numeric_limits<pid_t>::max()) {
      throw ProtocolError("QEMU returned no thread as thread-id");
    }
    vcpus.push_back({integer_in(entry, "cpu-index"), static_cast<pid_t>(thread)});
  }
  co_return vcpus;
}

asio::awaitable<void> add_object(
    Client& client, std::string type, std::string id, Json properties, milliseconds deadline) {
  check_numbers("", properties);
  properties["qom-type"] = std::move(type);
  properties["id"] = std::move(id);
  return execute_add(client, std::move(properties), deadline);
}

asio::awaitable<void> getfd(Client& client,
                            std::string name,
                            base::UniqueFd fd,
                            milliseconds deadline) {
  const std::string command = "getfd";
  Json arguments;
  arguments["fdname"] = std::move(name);
  co_await execute_with_fd(client, command, arguments, std::move(fd), deadline);
}

asio::awaitable<std::int64_t> add_fd(Client& client, base::UniqueFd fd, milliseconds deadline) {
  const std::string command = "add-fd";
  const Json nothing;
  const Json result = co_await execute_with_fd(client, command, nothing, std::move(fd), deadline);
  co_return integer_in(result, "fdset-id");
}

asio::awaitable<void> remove_fd(Client& client, std::int64_t set, milliseconds deadline) {
  const std::string command = "remove-fd";
  Json arguments;
  arguments["fdset-id"] = set;
  co_await client.execute(command, arguments, deadline);
}

}  // namespace vmlaunch::qmp
