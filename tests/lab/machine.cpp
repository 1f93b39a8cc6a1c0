#include "tests/lab/machine.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/process.hpp"

namespace vmlaunch::tests {

namespace {

namespace fs = std::filesystem;

fs::path folder_of(const std::string& address) {
  return fs::path("/sys/bus/pci/devices") / address;
}

std::string port_named(const std::string& name) {
  for (const auto& port : fs::directory_iterator("/sys/class/virtio-ports")) {
    if (contents(port.path() / "name") == name) {
      return "/dev/" + port.path().filename().string();
    }
  }
  throw std::runtime_error("There is no virtio port " + name);
}

}  // namespace

std::string machine_name() {
  std::istringstream words(contents("/proc/cmdline"));
  const std::string key = "lab.machine=";
  for (std::string word; words >> word;) {
    if (word.rfind(key, 0) == 0) {
      return word.substr(key.size());
    }
  }
  return "";
}

std::string contents(const std::string& file) {
  std::ifstream stream(file);
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  return text;
}

bool is_there(const std::string& address) {
  return fs::exists(folder_of(address));
}

std::string attribute(const std::string& address, const std::string& name) {
  return contents(folder_of(address) / name);
}

std::string driver_of(const std::string& address) {
  std::error_code error;
  return fs::read_symlink(folder_of(address) / "driver", error).filename();
}

std::vector<std::string> group_of(const std::string& address) {
  std::error_code error;
  std::vector<std::string> members;
  for (const auto& member :
       fs::directory_iterator(folder_of(address) / "iommu_group/devices", error)) {
    members.push_back(member.path().filename());
  }
  std::sort(members.begin(), members.end());
  return members;
}

OuterMachine::OuterMachine() : port_(base::open_file(port_named("outer"), O_RDWR)) {
  // Whoever opened the port first was greeted, and has done this.
  const std::string hello = "{\"execute\": \"qmp_capabilities\"}\n";
  base::write_all(port_.get(), hello, "the monitor outside");
  nlohmann::json answer;
  do {
    answer = read_message(30);
  } while (!answer.contains("return") && !answer.contains("error"));
}

nlohmann::json OuterMachine::execute(const std::string& command, const nlohmann::json& arguments) {
  const nlohmann::json request = {{"execute", command}, {"arguments", arguments}, {"id", command}};
  base::write_all(port_.get(), request.dump() + "\n", "the monitor outside");
  nlohmann::json answer;
  do {
    answer = read_message(30);
  } while (!answer.contains("id"));
  if (answer.contains("error")) {
    throw std::runtime_error(answer.dump());
  }
  return answer.at("return");
}

nlohmann::json OuterMachine::wait_for(const std::string& event, double seconds) {
  nlohmann::json message;
  do {
    message = read_message(seconds);
  } while (message.value("event", "") != event);
  return message.value("data", nlohmann::json::object());
}

nlohmann::json OuterMachine::read_message(double seconds) {
  const auto deadline = std::chrono::steady_clock::now() +
                        std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                            std::chrono::duration<double>(seconds));
  std::size_t end = 0;
  while ((end = unread_.find('\n')) == std::string::npos) {
    if (!base::wait_readable(port_.get(), deadline)) {
      throw std::runtime_error("The monitor outside does not answer");
    }
    std::array<char, 4096> buffer{};
    const auto got = base::check(::read(port_.get(), buffer.data(), buffer.size()),
                                 "read from the monitor outside");
    unread_.append(buffer.data(), static_cast<std::size_t>(got));
  }
  const nlohmann::json message = nlohmann::json::parse(unread_.substr(0, end));
  unread_.erase(0, end + 1);
  return message;
}

}  // namespace vmlaunch::tests
