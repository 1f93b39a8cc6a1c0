awaitable<void> bad() {
  if (co_await ready()) {
    first();
  }
  while (pred(co_await ready(1, 2),
              "longer than a line")) {
  }
  switch (co_await kind()) {
    case 1:
      break;
  }
  for (int i = 0; co_await more(i); ++i) {
  }
  for (auto& item : co_await items()) use(item);
  auto x = c ? 1 : co_await f();
  auto y = co_await f(c ? 1 : 2);
  co_await put({{"a", 1}});
  co_await put(
      Json::object(
          {{"a", 1}}));
  co_await put{1};
  co_await co_spawn(ex, [p]() -> awaitable<void> { co_return; }, use_awaitable);
  co_await co_spawn(ex, [&]() -> awaitable<void> { co_await f(); }, use_awaitable);
  auto z = g(co_await f());
  auto sum = 1 + co_await f();
  co_return co_await f() + 1;
  T t{co_await f(), 1};
  member_ = co_await f();
  if (x) y = co_await f();
}
