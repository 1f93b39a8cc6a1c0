#include "launcher/steps/journal.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <utility>

#include <boost/crc.hpp>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/text.hpp"

namespace vmlaunch::launcher::steps {

namespace {

constexpr std::uint64_t kVersion = 1;
constexpr std::size_t kLimit = std::size_t{16} << 20U;
constexpr std::size_t kMostEntries = 4096;
constexpr std::size_t kChecksum = 8;

std::string checksum(const std::string& text) {
  boost::crc_32_type crc;
  crc.process_bytes(text.data(), text.size());
  std::string digits(kChecksum + 1, '\0');
  static_cast<void>(std::snprintf(digits.data(), digits.size(), "%08x", crc.checksum()));
  digits.pop_back();
  return digits;
}

std::string boot_id() {
  std::string id = base::read_file("/proc/sys/kernel/random/boot_id");
  while (id.ends_with('\n')) {
    id.pop_back();
  }
  return id;
}

std::string path_in(const std::string& folder, const std::string& vm) {
  return folder + "/" + vm;
}

/// The record in a line that is whole; nothing for a damaged one.
std::optional<Json> parse_line(const std::string& line) {
  if (line.size() <= kChecksum || line[kChecksum] != ' ') {
    return std::nullopt;
  }
  const std::string text = line.substr(kChecksum + 1);
  Json record = Json::parse(text, nullptr, false);
  if (line.substr(0, kChecksum) != checksum(text) || !record.is_object()) {
    return std::nullopt;
  }
  return record;
}

}  // namespace

Journal Journal::create(const std::string& folder, const std::string& vm) {
  const std::string path = path_in(folder, vm);
  Journal journal(path, base::open_file(path, O_RDWR | O_CREAT | O_EXCL | O_APPEND, 0600));
  journal.boot_ = boot_id();
  journal.append({{"journal", kVersion}, {"vm", vm}, {"boot", journal.boot_}});
  return journal;
}

std::optional<Journal> Journal::open(const std::string& folder, const std::string& vm) {
  const std::string path = path_in(folder, vm);
  base::UniqueFd file(
      ::open(path.c_str(), O_RDWR | O_APPEND | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (!file && errno == ENOENT) {
    return std::nullopt;
  }
  struct stat info {};
  if (!file || ::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode) ||
      info.st_uid != ::geteuid() || (info.st_mode & 0077U) != 0) {
    throw JournalError("Cannot trust the journal " + path +
                       ": it must be a file of ours that nobody else can write; type: ls -l " +
                       base::shell_quote(path));
  }
  Journal journal(path, std::move(file));
  journal.read_back(base::read_all(journal.file_.get(), kLimit, path));
  return journal;
}

void Journal::read_back(const std::string& bytes) {
  std::size_t at = 0;
  for (std::size_t number = 1; at < bytes.size(); ++number) {
    const std::size_t end = bytes.find('\n', at);
    if (end == std::string::npos) {
      break;  // cut off: it was never acted on
    }
    const std::optional<Json> record = parse_line(bytes.substr(at, end - at));
    try {
      if (!record) {
        throw FormError("it is damaged");
      }
      take(*record);
    } catch (const FormError& error) {
      throw JournalError("Cannot use the journal " + path_ + ": line " + std::to_string(number) +
                         ": " + error.what() +
                         "; nothing of it was executed, and it is kept; look at it, restore the "
                         "host by hand or reboot, then type: rm " +
                         base::shell_quote(path_));
    }
    at = end + 1;
  }
  size_ = at;
}

/// The first record names version and boot, the others steps by their order.
void Journal::take(const Json& record) {
  Fields fields(record);
  if (boot_.empty()) {
    if (fields.number("journal", 0, UINT64_MAX) != kVersion) {
      throw FormError("it was written by another version of vmlaunch");
    }
    static_cast<void>(fields.text("vm"));
    boot_ = fields.text("boot");
  } else if (record.contains("step")) {
    entries_.push_back({read_step(fields.any("step")), fields.any("found"), false});
    if (!entries_.back().found.is_object()) {
      throw FormError("what was found is no object");
    }
  } else if (entries_.empty()) {
    throw FormError("it speaks of a step that is not there");
  } else if (record.contains("note")) {
    Entry& entry = entries_.at(fields.number("note", 0, entries_.size() - 1));
    entry.found.update(Fields(fields.any("found")).object());
  } else {
    entries_.at(fields.number("settled", 0, entries_.size() - 1)).settled = true;
  }
  fields.finish();
  if (boot_.empty() || entries_.size() > kMostEntries) {
    throw FormError("it is not a journal");
  }
}

void Journal::append(const Json& record) {
  const std::string text = record.dump();
  const std::string line = checksum(text) + " " + text + "\n";
  // A line that was cut off, in an earlier run or by a full disk in this one, must not begin ours.
  base::check(::ftruncate(file_.get(), static_cast<off_t>(size_)), "cut " + path_);
  base::write_all(file_.get(), line, path_);
  base::check(::fdatasync(file_.get()), "write " + path_);
  size_ += line.size();
}

void Journal::begin(const Step& step, const Json& found) {
  append({{"step", to_json(step)}, {"found", found}});
  entries_.push_back({step, found, false});
}

void Journal::note(std::size_t entry, const Json& more) {
  append({{"note", entry}, {"found", more}});
  entries_.at(entry).found.update(more);
}

void Journal::settle(std::size_t entry) {
  append({{"settled", entry}});
  entries_.at(entry).settled = true;
}

bool Journal::of_this_boot() const {
  return boot_ == boot_id();
}

void Journal::remove() {
  base::check(::unlink(path_.c_str()), "remove " + path_);
}

std::vector<std::string> journalled_vms(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code not_there;
  for (const auto& entry : std::filesystem::directory_iterator(folder, not_there)) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace vmlaunch::launcher::steps
