#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>

#include "base/unique_fd.hpp"
#include "qmp/errors.hpp"

namespace vmlaunch::qmp {

/// No connection to a monitor's socket came about.
class ConnectError : public Error {
 public:
  enum class Cause {
    bad_path,   ///< longer than a socket's name can be, or of something else
    not_there,  ///< nobody listens at the deadline
    busy,       ///< other clients wait already: QEMU serves one at a time
    gone,       ///< QEMU has ended; the text has its last words
  };

  ConnectError(Cause cause, const std::string& text) : Error(text), cause_(cause) {}

  [[nodiscard]] Cause cause() const { return cause_; }

 private:
  Cause cause_;
};

/// The end of what QEMU wrote to its standard error, if it has ended; nothing while it lives.
using LastWords = std::function<std::optional<std::string>()>;

/// Connects to the Unix socket at `path`, for a Client of this `context`: tries again while it is
/// not there yet or does not listen, until `deadline` or until QEMU has ended. That the
/// connection stands says nothing of who has the monitor: a second client gets no greeting until
/// the first has left. Throws ConnectError, and std::system_error for what is no matter of time.
[[nodiscard]] boost::asio::awaitable<base::UniqueFd> connect(boost::asio::io_context& context,
                                                             std::string path,
                                                             std::chrono::milliseconds deadline,
                                                             LastWords ended = nullptr);

}  // namespace vmlaunch::qmp
