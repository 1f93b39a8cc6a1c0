#include "launcher/guardian/wait_news.hpp"

#include "tests/support/catch.hpp"

namespace vmlaunch::launcher::guardian {
namespace {

using std::chrono::seconds;

TEST_CASE("wait news: a step that waits long for the same thing is heard again", "[guardian]") {
  WaitNews news;
  const WaitNews::Clock::time_point start;
  CHECK(news.pass("waiting for a", start));
  CHECK_FALSE(news.pass("waiting for a", start + seconds(1)));
  CHECK(news.pass("waiting for b", start + seconds(1)));
  CHECK_FALSE(news.pass("waiting for b", start + seconds(10)));
  CHECK(news.pass("waiting for b", start + seconds(11)));
  CHECK_FALSE(news.pass("waiting for b", start + seconds(12)));
}

}  // namespace
}  // namespace vmlaunch::launcher::guardian
