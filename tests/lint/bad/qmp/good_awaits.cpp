// co_await in comments, even in if (co_await x), isn't looked at; "nor in what they quote
/* if (co_await x) { "
 */
#define WAIT(x) \
  if (co_await x)
awaitable<void> good() {
  const char* text = "if (co_await f({1})) // \" ";
  const auto raw = R"({"if (co_await)": [{"a": ";"}, f(x)]})";
  const char quote = '"', brace = '{';
  const long long big = 1'000'000;
  co_await f();
  co_await this->stream_.async_read<int>(a[1], g(h(2), i()), "x;}");
  auto x = co_await f(
      one,
      two);
  const auto& y = co_await ns::f<A, B>(std::move(x));
  auto [error, size] = co_await stream.async_read_some(buffer, as_tuple(use_awaitable));
  const std::size_t got = co_await f();
  auto either = co_await (f() || timer.async_wait(use_awaitable));
  auto executor = co_await boost::asio::this_coro::executor;
  if (x == T{}) co_await f();
  for (;;) co_await f();
  for (std::size_t i = 0; i < n; ++i) {
    co_await f(i);
  }
  co_await wait_for(co_timer());
  switch (x) {
    case ns::Kind::one:
      co_await f();
      break;
    case 'a':
      co_await f();
    default:
      co_await f();
  }
  do {
    co_await f();
  } while (x ? y : big);
  try {
    co_await f();
  } catch (const std::exception& e) {
    log(e);
  }
  co_spawn(
      ex,
      [p]() -> awaitable<void> {
        co_await f();
        co_return;
      },
      detached);
  if (a) {
  } else if (b) {
    co_await f();
  } else
    co_await f();
  co_return co_await f();
}
