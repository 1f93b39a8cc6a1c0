#include "launcher/guardian/image_head.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "launcher/survey/survey.hpp"

namespace vmlaunch::launcher::guardian {

namespace {

/// Where qemu-img puts the name of the image beneath: in front of the first cluster's rest.
constexpr std::size_t kMostHead = 4096;

/// A header without its extensions; up to its incompatible features.
constexpr std::size_t kHeader = 104;
constexpr std::size_t kNeeded = 80;

/// All numbers are big-endian.
std::uint64_t number_at(const std::string& head, std::size_t place, std::size_t bytes) {
  std::uint64_t number = 0;
  for (const char byte : head.substr(place, bytes)) {
    number = number << 8U | static_cast<unsigned char>(byte);
  }
  return number;
}

bool is_image(const std::string& head) {
  return head.size() >= kNeeded && head.starts_with(survey::kQcow2Magic);
}

/// The name's place and size, in version 2 and 3 alike.
std::uint64_t name_place(const std::string& head) {
  return number_at(head, 8, 8);
}
std::uint64_t name_size(const std::string& head) {
  return number_at(head, 16, 4);
}

}  // namespace

std::string head_of(int fd) {
  // O_DIRECT reads whole sectors into memory that is aligned like them.
  alignas(4096) std::array<char, kMostHead> sector{};
  const ssize_t got = ::pread(fd, sector.data(), sector.size(), 0);
  std::string head(sector.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
  std::size_t wanted = kHeader;
  if (is_image(head) && name_place(head) < kMostHead && name_size(head) < kMostHead) {
    wanted = std::max<std::size_t>(wanted, name_place(head) + name_size(head));
  }
  head.resize(std::min(head.size(), wanted));
  return head;
}

std::optional<ImageLinks> links_of(const std::string& head) {
  if (!is_image(head)) {
    return std::nullopt;
  }
  ImageLinks links;
  const std::uint64_t version = number_at(head, 4, 4);
  const std::uint64_t place = name_place(head);
  const std::uint64_t size = name_size(head);
  links.has_data_file = version >= 3 && (number_at(head, 72, 8) & 4U) != 0;
  links.is_overlay = place != 0;
  if (links.is_overlay && size > 0 && place < head.size() && size <= head.size() - place) {
    links.beneath = head.substr(place, size);
  }
  return links;
}

}  // namespace vmlaunch::launcher::guardian
