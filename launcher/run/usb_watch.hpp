#pragma once

#include <functional>
#include <memory>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

struct udev;
struct udev_monitor;

namespace vmlaunch::launcher::run {

/// Tells when USB devices come or go, as the kernel says it: udev's rules make no difference to
/// QEMU's own /dev. Several changes at once may be told as one.
class UsbWatch {
 public:
  /// Throws std::system_error.
  UsbWatch(boost::asio::io_context& io, std::function<void()> on_change);

 private:
  void wait();
  bool drain();

  std::unique_ptr<udev, udev* (*)(udev*)> udev_;
  std::unique_ptr<udev_monitor, udev_monitor* (*)(udev_monitor*)> monitor_;
  boost::asio::posix::stream_descriptor descriptor_;
  std::function<void()> on_change_;
};

}  // namespace vmlaunch::launcher::run
