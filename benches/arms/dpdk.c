/* DPDK's fast paths are inline C: one function with a call for each operation
 * (what Rust can have) and one with the loop inside (what C has). */
#include <pthread.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

/* More than any workload keeps, and what a thread keeps for itself. */
#define COUNT 8191
#define CACHE 256

struct taken {
    struct rte_mbuf *mbuf;
    void *bytes;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t at_exit;
static struct rte_mempool *pool;

/* There are 128 places for threads: one that ends leaves its own. */
static void leave(void *registered)
{
    (void)registered;
    rte_thread_unregister();
}

static void start(void)
{
    char *arguments[] = {"bench",           "--no-huge",      "--no-shconf",
                         "--no-pci",        "--no-telemetry", "--iova-mode=va",
                         "--log-level=1",   "-m",             "512",
                         "-l",              "0",              NULL};
    if (rte_eal_init(11, arguments) < 0 || pthread_key_create(&at_exit, leave) != 0)
        return;
    pool = rte_pktmbuf_pool_create("bench", COUNT, CACHE, 0, 2048 + RTE_PKTMBUF_HEADROOM,
                                   SOCKET_ID_ANY);
}

/* Without this a thread has no cache and takes the ring's way each time. */
void pagefrag_dpdk_register(void)
{
    if (rte_lcore_id() == LCORE_ID_ANY && rte_thread_register() == 0)
        (void)pthread_setspecific(at_exit, pool);
}

/* The process's pool of mbufs with 2 KiB of room and a cache for each thread;
 * NULL when DPDK does not start here. Registers the calling thread. */
struct rte_mempool *pagefrag_dpdk_pool(void)
{
    pthread_once(&once, start);
    if (pool)
        pagefrag_dpdk_register();
    return pool;
}

struct taken pagefrag_dpdk_take(struct rte_mempool *pool)
{
    struct rte_mbuf *mbuf = rte_pktmbuf_alloc(pool);
    struct taken taken = {mbuf, mbuf ? rte_pktmbuf_mtod(mbuf, void *) : NULL};
    return taken;
}

void pagefrag_dpdk_give(struct rte_mbuf *mbuf)
{
    rte_pktmbuf_free(mbuf);
}

int pagefrag_dpdk_take_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned count)
{
    return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void pagefrag_dpdk_give_bulk(struct rte_mbuf **mbufs, unsigned count)
{
    rte_pktmbuf_free_bulk(mbufs, count);
}

void *pagefrag_dpdk_bytes(struct rte_mbuf *mbuf)
{
    return rte_pktmbuf_mtod(mbuf, void *);
}

/* Takes and gives back, with nothing of Rust in between. */
void pagefrag_dpdk_pairs(struct rte_mempool *pool, unsigned long rounds)
{
    while (rounds--) {
        struct rte_mbuf *mbuf = rte_pktmbuf_alloc(pool);
        __asm__ volatile("" : : "r"(mbuf) : "memory");
        rte_pktmbuf_free(mbuf);
    }
}
