/* threading.h: locks, conditions and threads of POSIX or of Windows, as threads.c needs them. */
#ifndef OD_THREADING_H
#define OD_THREADING_H

#if defined(_WIN32)

#define WIN32_LEAN_AND_MEAN
#include <process.h>
#include <windows.h>

typedef SRWLOCK od_mutex;
typedef CONDITION_VARIABLE od_condition;
typedef HANDLE od_thread;
typedef unsigned(__stdcall *od_thread_main)(void *);
#define OD_THREAD_MAIN(name) static unsigned __stdcall name(void *argument)
#define OD_THREAD_END 0

static inline void od_mutex_open(od_mutex *lock) { InitializeSRWLock(lock); }
static inline void od_mutex_close(od_mutex *lock) { (void)lock; }
static inline void od_mutex_lock(od_mutex *lock) { AcquireSRWLockExclusive(lock); }
static inline void od_mutex_unlock(od_mutex *lock) { ReleaseSRWLockExclusive(lock); }
static inline void od_condition_open(od_condition *condition) {
  InitializeConditionVariable(condition);
}
static inline void od_condition_close(od_condition *condition) { (void)condition; }
static inline void od_condition_wait(od_condition *condition, od_mutex *lock) {
  SleepConditionVariableSRW(condition, lock, INFINITE, 0);
}
static inline void od_condition_wake(od_condition *condition) { WakeConditionVariable(condition); }
static inline void od_condition_wake_all(od_condition *condition) {
  WakeAllConditionVariable(condition);
}

/* Whether a thread was started. */
static inline int od_thread_start(od_thread *thread, od_thread_main work, void *argument) {
  *thread = (HANDLE)_beginthreadex(NULL, 0, work, argument, 0, NULL);
  return *thread != NULL;
}

static inline void od_thread_join(od_thread thread) {
  WaitForSingleObject(thread, INFINITE);
  CloseHandle(thread);
}

static inline long od_process(void) { return 0; } /* processes do not fork there */

#else

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

/* Wheels run on old systems too: glibc 2.34 gave these functions a new version and kept the one that
 * its first release for the processor had. */
#if defined(OD_OLDEST_GLIBC) && defined(__GLIBC__)
#if defined(__x86_64__)
#define OD_FIRST_GLIBC "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define OD_FIRST_GLIBC "GLIBC_2.17"
#elif defined(__arm__)
#define OD_FIRST_GLIBC "GLIBC_2.4"
#endif
#if defined(OD_FIRST_GLIBC)
__asm__(".symver pthread_create, pthread_create@" OD_FIRST_GLIBC);
__asm__(".symver pthread_join, pthread_join@" OD_FIRST_GLIBC);
__asm__(".symver pthread_sigmask, pthread_sigmask@" OD_FIRST_GLIBC);
#endif
#endif

typedef pthread_mutex_t od_mutex;
typedef pthread_cond_t od_condition;
typedef pthread_t od_thread;
typedef void *(*od_thread_main)(void *);
#define OD_THREAD_MAIN(name) static void *name(void *argument)
#define OD_THREAD_END NULL

static inline void od_mutex_open(od_mutex *lock) { pthread_mutex_init(lock, NULL); }
static inline void od_mutex_close(od_mutex *lock) { pthread_mutex_destroy(lock); }
static inline void od_mutex_lock(od_mutex *lock) { pthread_mutex_lock(lock); }
static inline void od_mutex_unlock(od_mutex *lock) { pthread_mutex_unlock(lock); }
static inline void od_condition_open(od_condition *condition) {
  pthread_cond_init(condition, NULL);
}
static inline void od_condition_close(od_condition *condition) { pthread_cond_destroy(condition); }
static inline void od_condition_wait(od_condition *condition, od_mutex *lock) {
  pthread_cond_wait(condition, lock);
}
static inline void od_condition_wake(od_condition *condition) { pthread_cond_signal(condition); }
static inline void od_condition_wake_all(od_condition *condition) {
  pthread_cond_broadcast(condition);
}

/* Whether a thread was started. It takes no signals, which belong to the program's own threads, but
 * faults of the thread itself: a mapped file that was truncated (mapped.c). */
static inline int od_thread_start(od_thread *thread, od_thread_main work, void *argument) {
  sigset_t all, before;
  sigfillset(&all);
  sigdelset(&all, SIGBUS);
  sigdelset(&all, SIGSEGV);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  int failed = pthread_create(thread, NULL, work, argument);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return !failed;
}

static inline void od_thread_join(od_thread thread) { pthread_join(thread, NULL); }

static inline long od_process(void) { return (long)getpid(); }

#endif

#endif
