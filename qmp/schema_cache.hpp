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
/// It is a cache: a file that cannot be read or is not right is as good as none, and one that
/// cannot be written is not there next time.
class SchemaCache {
 public:
  /// `folder` is made, for its user alone, as soon as there is something to keep.
  explicit SchemaCache(std::string folder) : folder_(std::move(folder)) {}

  /// The schema of the QEMU that `client` speaks to: `binary` is the path of its program, `version`
  /// that of its greeting. The client must live, and this object, until the call has ended. Throws
  /// as Client::execute, and ProtocolError.
  [[nodiscard]] boost::asio::awaitable<Schema> schema(Client& client,
                                                      std::string binary,
                                                      std::string version) const;

 private:
  [[nodiscard]] std::string file_of(const std::string& binary) const;
  void keep(const std::string& binary, const Json& content) const;

  std::string folder_;
};

}  // namespace vmlaunch::qmp
