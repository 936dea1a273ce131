//! The fallback, where a sandbox refuses io_uring: a filter on one thread answers io_uring_setup as container runtimes
//! do.
//!
//! Unsafe: there is no safe way to install a filter.
#![allow(unsafe_code)]

use net::reactor::{Backend, IoBackend, choose_backend, uring};

/// Makes io_uring_setup of this thread (and its descendants) fail with `errno`, for good.
fn refuse_io_uring(errno: i32) {
    let statement = |code: u32, value: u32, yes: u8, no: u8| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: yes,
        jf: no,
        k: value,
    };
    let mut program = [
        // The number of the system call is the first word.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, u32::try_from(libc::SYS_io_uring_setup).unwrap(), 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs(), 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
    // SAFETY: plain numbers.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the program outlives the call, which copies it.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_refused_io_uring_falls_back_to_epoll_and_says_why() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        // A thread of its own: a filter is never taken off.
        let (refused, choice) = std::thread::spawn(move || {
            refuse_io_uring(errno);
            (uring::probe(), choose_backend(IoBackend::Auto))
        })
        .join()
        .unwrap();
        assert_eq!(refused.unwrap_err().source.raw_os_error(), Some(errno));
        let (backend, reason) = choice;
        assert_eq!(backend, Backend::Epoll);
        assert!(reason.unwrap().contains("io_uring is refused"));
    }
}

#[test]
fn epoll_can_be_asked_for() {
    assert_eq!(choose_backend(IoBackend::Epoll), (Backend::Epoll, None));
}
