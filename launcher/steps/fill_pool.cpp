#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>

#include "base/byte_size.hpp"
#include "base/text.hpp"
#include "launcher/config/config.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// How much is asked for at a time: what comes next is told, or given up, in between.
constexpr std::uint64_t kPiece = 256 * base::kMiB;
constexpr std::chrono::seconds kNews{1};

constexpr std::uint64_t kMostPages = std::uint64_t{1} << 40U;

std::string text_of_size(std::uint64_t bytes) {
  return base::to_string(base::ByteSize{bytes});
}

/// "2 MiB"
std::string in_words(std::uint64_t bytes) {
  const std::string text = text_of_size(bytes);
  return text.substr(0, text.size() - 1) + " " + text.back() + "iB";
}

/// What the kernel shows of the huge pages of one size, of one node or of all.
struct Pool {
  std::uint64_t total = 0;
  std::uint64_t surplus = 0;  ///< those among them that go when whoever has them ends

  [[nodiscard]] std::uint64_t persistent() const { return total - std::min(surplus, total); }
};

std::uint64_t read_count(const Host& host, const std::string& path) {
  const auto count = base::parse_number<std::uint64_t>(host.tree().read(path).value_or(""));
  if (!count || *count > kMostPages) {
    throw Failure(ExitCode::memory,
                  "Cannot tell how many huge pages there are: " + path +
                      " is not readable; type: cat " + path);
  }
  return *count;
}

Pool read_pool(const Host& host, const std::string& folder) {
  return {read_count(host, folder + "/nr_hugepages"),
          read_count(host, folder + "/surplus_hugepages")};
}

/// Sees to it that a node has so many huge pages free, and takes those that were not there before
/// from the host's memory. Once QEMU has them they become surplus, which the kernel takes back by
/// itself when QEMU ends, however that comes
/// (Documentation/admin-guide/mm/hugetlbpage.rst).
class FillPool final : public Change {
 public:
  explicit FillPool(const PoolSize& size) : size_(size) {}

  const char* kind() const override { return "fill-pool"; }

  Step read(Fields& fields) const override {
    PoolSize size;
    size.node = static_cast<unsigned>(fields.number("node", 0, config::kMostNodes - 1));
    size.page.bytes = fields.number("page", base::kMiB, 64 * base::kGiB);
    size.pages = fields.number("pages", 1, kMostPages);
    size.compact = fields.boolean("compact");
    size.drop_caches = fields.boolean("drop_caches");
    if (size.page.bytes % base::kMiB != 0) {
      throw FormError("not a size of huge pages");
    }
    return fill_pool(size);
  }

  void write(Json& json) const override {
    json.update({{"node", size_.node},
                 {"page", size_.page.bytes},
                 {"pages", size_.pages},
                 {"compact", size_.compact},
                 {"drop_caches", size_.drop_caches}});
  }

  std::string describe() const override {
    return "set aside " + std::to_string(size_.pages) + " " + object();
  }
  std::string describe_undo() const override { return "the pool as it was"; }
  bool is_per_qemu() const override { return true; }
  std::string object() const override {
    return "huge pages of " + base::to_string(size_.page) + " on node " +
           std::to_string(size_.node);
  }
  bool is_free_of_qemu() const override { return true; }

  // Free pages have no owner: another VM that starts meanwhile would count on ours.
  std::string turn() const override { return "huge pages"; }

  void check(const Host& host) const override { static_cast<void>(read_pool(host, folder())); }

  Json capture(const Host& host, const Context& /*context*/) const override {
    const Pool pool = read_pool(host, folder());
    return {{"persistent", pool.persistent()}, {"most", pool.total + missing(host)}};
  }

  void apply(Host& host,
             const Context& context,
             const Json& found,
             const Note& /*note*/) const override {
    const auto most = found.at("most").get<std::uint64_t>();
    grow(host, context, most);
    if (missing(host) > 0 && size_.compact && !host.tree().exists("/sys/module/zfs")) {
      // ZFS has crashed in compaction.
      context.waiting("moving memory together on node " + std::to_string(size_.node));
      host.write_on_node(node_folder() + "/compact", "1", size_.node);
      grow(host, context, most);
    }
    // The page cache first, then inodes and directory entries too.
    for (const char* what : {"1", "3"}) {
      if (missing(host) > 0 && size_.drop_caches) {
        context.waiting("writing to disk what the host has cached of its files");
        host.sync();
        context.waiting("dropping what the host has cached of its files");
        host.write_on_node("/proc/sys/vm/drop_caches", what, size_.node);
        grow(host, context, most);
      }
    }
    if (const std::uint64_t short_of = missing(host); short_of > 0) {
      refuse(size_.pages - short_of);
    }
  }

  void after_start(Host& host,
                   const Json& found,
                   const Note& note,
                   const Tell& tell) const override {
    const auto before = found.at("persistent").get<std::uint64_t>();
    const bool ours = is_between(read_pool(host, folder()).persistent(), found);
    if (ours) {
      make_persistent(host, before);
    }
    const std::uint64_t now = read_pool(host, folder()).persistent();
    if (now == before) {
      note({{"lowered", true}});
    } else {
      tell("there are " + std::to_string(now) + " " + object() + ", there were " +
           std::to_string(before) +
           (ours ? ": what is ours of them goes when the VM has ended"
                 : ": somebody else has changed that, and it will be left"));
    }
  }

  void undo(Host& host, const Json& found) const override {
    Fields fields(found);
    const std::uint64_t before = fields.number("persistent", 0, kMostPages);
    const std::uint64_t now = read_pool(host, folder()).persistent();
    if (found.contains("lowered") || now == before) {
      return;
    }
    if (!is_between(now, found)) {
      throw ChangedMeanwhile("there are " + std::to_string(now) + " " + object() + ", there were " +
                             std::to_string(before) + "; type: echo " + std::to_string(before) +
                             " > " + folder() + "/nr_hugepages");
    }
    make_persistent(host, before);
    if (const std::uint64_t left = read_pool(host, folder()).persistent(); left != before) {
      throw std::runtime_error("there are still " + std::to_string(left) + ", there were " +
                               std::to_string(before) + "; type: cat " + folder() +
                               "/free_hugepages");
    }
  }

 private:
  /// Whether we may have made it what it is.
  static bool is_between(std::uint64_t persistent, const Json& found) {
    Fields fields(found);
    return persistent >= fields.number("persistent", 0, kMostPages) &&
           persistent <= fields.number("most", 0, 2 * kMostPages);
  }

  std::string node_folder() const {
    return "/sys/devices/system/node/node" + std::to_string(size_.node);
  }
  std::string pages_folder() const {
    return "/hugepages/hugepages-" + std::to_string(size_.page.bytes / base::kKiB) + "kB";
  }
  std::string folder() const { return node_folder() + pages_folder(); }

  std::uint64_t missing(const Host& host) const {
    const std::uint64_t free = read_count(host, folder() + "/free_hugepages");
    return size_.pages - std::min(size_.pages, free);
  }

  /// Raises the pool piece by piece until enough is free, `most` pages are persistent, or the
  /// kernel finds no more.
  void grow(Host& host, const Context& context, std::uint64_t most) const {
    const std::uint64_t piece = std::max<std::uint64_t>(1, kPiece / size_.page.bytes);
    auto told = std::chrono::steady_clock::now();
    for (std::uint64_t lacks = missing(host); lacks > 0;) {
      if (std::chrono::steady_clock::now() - told >= kNews) {
        told = std::chrono::steady_clock::now();
        context.waiting(std::to_string(size_.pages - lacks) + " of " + std::to_string(size_.pages) +
                        " " + object());
      }
      // Surplus pages count as the first that are added, and stay with whoever has them.
      const std::uint64_t goal = read_pool(host, folder()).total + std::min(piece, lacks);
      make_persistent(host, std::min(goal, most));
      const std::uint64_t now = missing(host);
      if (now >= lacks) {
        return;
      }
      lacks = now;
    }
  }

  /// The kernel adds a node's own attribute to the other nodes' pages without telling their surplus
  /// apart (before Linux 6.15), so the sum of all nodes is written, bound to this one.
  void make_persistent(Host& host, std::uint64_t pages) const {
    const std::string all = "/sys/kernel/mm" + pages_folder();
    const std::uint64_t ours = read_pool(host, folder()).persistent();
    const std::uint64_t others = read_pool(host, all).persistent() - ours;
    host.write_on_node(all + "/nr_hugepages_mempolicy", std::to_string(others + pages), size_.node);
  }

  [[noreturn]] void refuse(std::uint64_t got) const {
    std::string advice = size_.page.bytes >= base::kGiB
                             ? "the host's memory is too scattered; boot with hugepagesz=" +
                                   base::to_string(size_.page) +
                                   " hugepages=" + std::to_string(size_.pages) +
                                   " on the kernel's command line"
                             : "ask for less memory (" + text_of_size(got * size_.page.bytes) +
                                   " could be had), end what uses memory there";
    if (!size_.drop_caches) {
      advice += ", or allow \"drop_caches\"";
    }
    throw Failure(ExitCode::memory,
                  "Cannot " + describe() + ": got " + std::to_string(got) + " of " +
                      std::to_string(size_.pages) + " huge pages of " + in_words(size_.page.bytes) +
                      " on node " + std::to_string(size_.node) + "; " + advice + "; type: cat " +
                      node_folder() + "/meminfo");
  }

  PoolSize size_;
};

}  // namespace

Step fill_pool(const PoolSize& size) {
  return Step(std::make_shared<FillPool>(size));
}

}  // namespace vmlaunch::launcher::steps
