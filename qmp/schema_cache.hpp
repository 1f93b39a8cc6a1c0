#pragma once

#include <string>
#include <utility>

#include <boost/asio/awaitable.hpp>

#include "qmp/client.hpp"
#include "qmp/schema.hpp"

namespace vmlaunch::qmp {

/// Schemas by QEMU binary, in a folder: QEMU's main loop takes some 15 ms for the question, and the
/// answer is the same until the binary changes.
///
/// A binary is known again by its path, its version, and the device, inode, size and time of change
/// (in ns) of the file behind all links. That notices an upgrade, a link that leads elsewhere, and
/// a file that was written in place. It does not notice what keeps all of these, such as a write
/// that sets the time back; nor that the QEMU at hand was started from a file that has been
/// replaced since, unless its version tells.
///
/// It is a cache: a file that cannot be read or is not right is as good as none, and one that
/// cannot be written is not there next time. Any number of processes and threads may share the
/// folder, each with an object of its own. A process that is killed while it writes leaves a file
/// that nobody reads.
class SchemaCache {
 public:
  /// `folder` is made, for its user alone, as soon as there is something to keep.
  explicit SchemaCache(std::string folder) : folder_(std::move(folder)) {}

  /// The schema of the QEMU that `client` speaks to: `binary` is the path of its program, `version`
  /// that of its greeting, or any text that tells more builds apart, such as one with the package
  /// of query-version. The client must live, and this object, until the call has ended. Throws as
  /// Client::execute, and ProtocolError.
  [[nodiscard]] boost::asio::awaitable<Schema> schema(Client& client,
                                                      std::string binary,
                                                      std::string version) const;

 private:
  [[nodiscard]] std::string file_of(const std::string& binary) const;
  void keep(const std::string& binary, const Json& content) const;

  std::string folder_;
};

}  // namespace vmlaunch::qmp
