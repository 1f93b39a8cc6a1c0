#include "qmp/schema_cache.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "qmp/deadlines.hpp"

namespace vmlaunch::qmp {

namespace {

namespace asio = boost::asio;

constexpr std::size_t kLargest = std::size_t{16} << 20U;
constexpr const char* kCommand = "query-qmp-schema";

/// What changes when the program at a path does, or at the end of its links; null if there is none.
Json identity_of(const std::string& binary, const std::string& version) {
  struct stat status {};
  if (::stat(binary.c_str(), &status) != 0) {
    return nullptr;
  }
  return {{"path", binary},
          {"version", version},
          {"device", status.st_dev},
          {"inode", status.st_ino},
          {"size", status.st_size},
          {"seconds", status.st_mtim.tv_sec},
          {"nanoseconds", status.st_mtim.tv_nsec}};
}

std::optional<Schema> read_schema(const std::string& file, const Json& identity) {
  try {
    const Json content = Json::parse(base::read_file(file, kLargest));
    if (content.at("binary") == identity) {
      return Schema(content.at("schema"));
    }
  } catch (const std::exception&) {
    // Not there yet, cut off, or of another form.
  }
  return std::nullopt;
}

asio::awaitable<Json> query(Client& client) {
  const std::string command = kCommand;
  const Json nothing;
  co_return co_await client.execute(command, nothing, usual_deadline(command));
}

}  // namespace

/// One file for a path, so that an upgrade leaves nothing behind; what shares it by chance differs
/// in its identity.
std::string SchemaCache::file_of(const std::string& binary) const {
  std::string name = binary;
  std::replace(name.begin(), name.end(), '/', '%');
  return folder_ + "/" + name + ".json";
}

/// Whole or not at all: others may read and write at the same time, also such as have this
/// process's id in another container, or are its threads.
void SchemaCache::keep(const std::string& binary, const Json& content) const {
  const std::string file = file_of(binary);
  std::string made = file + ".XXXXXX";
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(folder_).parent_path(), ignored);
  static_cast<void>(::mkdir(folder_.c_str(), 0700));
  const base::UniqueFd fd(::mkostemp(made.data(), O_CLOEXEC));
  if (!fd) {
    return;
  }
  try {
    base::write_all(fd.get(), content.dump(), made);
    base::check(std::rename(made.c_str(), file.c_str()), "keep a schema");
  } catch (const std::exception&) {
    static_cast<void>(::unlink(made.c_str()));
  }
}

asio::awaitable<Schema> SchemaCache::schema(Client& client,
                                            std::string binary,
                                            std::string version) const {
  const Json identity = identity_of(binary, version);
  if (std::optional<Schema> kept = read_schema(file_of(binary), identity)) {
    co_return *std::move(kept);
  }
  Json entries = co_await query(client);
  Schema schema(entries);
  if (!identity.is_null()) {
    keep(binary, {{"binary", identity}, {"schema", std::move(entries)}});
  }
  co_return schema;
}

}  // namespace vmlaunch::qmp
