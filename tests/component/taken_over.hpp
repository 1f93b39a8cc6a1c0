#pragma once

#include <fcntl.h>

#include <array>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "base/packet.hpp"
#include "tests/component/guardian_talk.hpp"

namespace vmlaunch::tests {

/// A real QEMU under a guardian, its guest running, and its monitor.
class TakenOver {
 public:
  explicit TakenOver(const Json& more = Json::object(), const plan::Placement& placement = {})
      : sealing_(0), talk_(root_alone()) {
    Json config = {{"name", own_vm()}, {"accel", "tcg"}, {"memory", {{"size", "32M"}}}};
    config.merge_patch(more);
    const std::string path = sealing_.folder.file("vm.json");
    const auto spec = launcher::config::load(launcher::config::Document(path, config.dump()), path);
    sealing_.program = base::open_file("/usr/bin/qemu-system-x86_64", O_PATH);
    sealing_.seal.plan = plan::make_plan(spec, {}, root_alone(), launcher::Authority::root);
    sealing_.seal.plan.steps.clear();
    sealing_.seal.plan.placement = placement;
    seal();
    const auto spawned = talk_.ask(guardian::Request(guardian::Spawn{}));
    REQUIRE(spawned.has_value());
    REQUIRE(std::holds_alternative<guardian::Spawned>(*spawned));
    monitor_ = std::move(talk_.descriptors().front());
    if (sealing_.seal.plan.qemu.serial_stdio) {
      serial_ = std::move(talk_.descriptors().back());
    }
    read_message();  // the greeting
    REQUIRE(ask({{"execute", "qmp_capabilities"}}).contains("return"));
    REQUIRE(talk_.ask(guardian::Request(guardian::Started{})).has_value());
    REQUIRE(ask({{"execute", "cont"}}).contains("return"));
  }

  Talk& guardian() { return talk_; }

  /// The guest's serial port, if the config has it on "stdio".
  [[nodiscard]] int serial() const { return serial_.get(); }

  /// The answer; null when QEMU ended instead.
  Json ask(const Json& command, const std::vector<int>& fds = {}) {
    try {
      base::send_packet(monitor_.get(), command.dump() + "\n", fds);
    } catch (const std::system_error&) {
      return nullptr;
    }
    Json message = read_message();
    while (message.contains("event")) {
      message = read_message();
    }
    return message;
  }

  /// "nothing" if QEMU did it.
  std::string refusal(const std::string& command, const Json& arguments) {
    const Json answer = ask({{"execute", command}, {"arguments", arguments}});
    INFO(command << " " << arguments << ": " << answer);
    CHECK((answer.is_null() || answer.contains("error")));
    return answer.is_null() ? "ended" : answer.value(Json::json_pointer("/error/desc"), "nothing");
  }

 private:
  /// With all files of the plan: there is nothing to be made.
  void seal() {
    std::vector<int> fds = sealing_.fds();
    std::vector<base::UniqueFd> files;
    for (std::size_t i = 0; i < sealing_.seal.plan.files.size(); ++i) {
      const plan::FileUse& file = sealing_.seal.plan.files[i];
      files.push_back(base::open_file(
          file.path, file.access == plan::FileUse::Access::read ? O_RDONLY : O_RDWR));
      fds.push_back(files.back().get());
      sealing_.seal.opened.push_back(i);
    }
    const auto sealed = talk_.seal(sealing_.seal, fds);
    REQUIRE(sealed.has_value());
    REQUIRE(std::holds_alternative<guardian::Sealed>(*sealed));
  }

  Json read_message() {
    for (;;) {
      const std::size_t end = buffer_.find('\n');
      if (end != std::string::npos) {
        Json message = Json::parse(buffer_.substr(0, end));
        buffer_.erase(0, end + 1);
        return message;
      }
      std::array<char, 4096> piece{};
      if (!base::wait_readable(monitor_.get(),
                               std::chrono::steady_clock::now() + std::chrono::seconds(20))) {
        FAIL("QEMU says nothing");
      }
      const ssize_t got = ::read(monitor_.get(), piece.data(), piece.size());
      if (got <= 0) {
        return nullptr;
      }
      buffer_.append(piece.data(), static_cast<std::size_t>(got));
    }
  }

  Sealing sealing_;
  Talk talk_;
  base::UniqueFd monitor_;
  base::UniqueFd serial_;
  std::string buffer_;
};

}  // namespace vmlaunch::tests
