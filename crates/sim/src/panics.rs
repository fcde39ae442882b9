//! Panics of tasks, which the runtime would keep to itself.

use std::cell::RefCell;

thread_local! {
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Has panics noted on the thread where they happen, for the whole process.
pub fn watch() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        FIRST.with_borrow_mut(|first| first.get_or_insert_with(|| info.to_string()).len());
        usual(info);
    }));
}

/// The first panic since the last call.
pub fn take() -> Option<String> {
    FIRST.take()
}
