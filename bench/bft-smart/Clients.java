import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.Semaphore;

import bftsmart.tom.core.TOMSender;
import bftsmart.tom.core.messages.TOMMessage;
import bftsmart.tom.core.messages.TOMMessageType;

/**
 * Clients that keep so many requests in flight together, and count one as done once as
 * many replicas as BFT-SMaRt asks for have given the same answer.
 *
 * <pre>java Clients IN_FLIGHT SECONDS REQUEST_BYTES [WARM_UP_SECONDS]</pre>
 * Prints one line, as bench/load does. Beyond {@link #MOST} requests in flight a client
 * has several on their way: BFT-SMaRt's own proxies have one, but a thousand of them are
 * three thousand threads. The first seconds are not counted: the just-in-time compilers
 * are at work.
 */
public final class Clients {
    private static final int MOST = 64;
    /** Numbers of clients begin above those of replicas. */
    private static final int FIRST = 2000;

    private final ConcurrentLinkedQueue<Long> nanoseconds = new ConcurrentLinkedQueue<>();
    private volatile boolean counts;
    private volatile boolean ends;

    public static void main(String[] arguments) throws InterruptedException {
        int inFlight = Integer.parseInt(arguments[0]);
        double seconds = Double.parseDouble(arguments[1]);
        int bytes = Integer.parseInt(arguments[2]);
        long warmUp = arguments.length > 3 ? Long.parseLong(arguments[3]) : 5;
        new Clients().measure(inFlight, seconds, bytes, warmUp);
        // Netty's threads would stay.
        System.exit(0);
    }

    private void measure(int inFlight, double seconds, int bytes, long warmUp) throws InterruptedException {
        int clients = Math.min(inFlight, MOST);
        for (int at = 0; at < clients; at++) {
            Client client = new Client(FIRST + at, inFlight / clients);
            Thread thread = new Thread(() -> client.run(bytes), "client-" + at);
            thread.setDaemon(true);
            thread.start();
        }
        Thread.sleep(warmUp * 1000);
        System.out.println("begins");
        counts = true;
        long begun = System.nanoTime();
        Thread.sleep((long) (seconds * 1000));
        counts = false;
        double took = (System.nanoTime() - begun) / 1e9;
        ends = true;
        long[] times = nanoseconds.stream().mapToLong(Long::longValue).sorted().toArray();
        System.out.printf("operations=%d rate=%.1f p50=%.3f p99=%.3f errors=0%n", times.length, times.length / took,
                quantile(times, 0.5), quantile(times, 0.99));
    }

    private static double quantile(long[] sorted, double q) {
        return sorted.length == 0 ? Double.NaN : sorted[(int) ((sorted.length - 1) * q)] / 1e6;
    }

    /** One client, whose requests are numbered and answered in any order. */
    private final class Client extends TOMSender {
        private final Semaphore room;
        private final Map<Integer, Waiting> waiting = new ConcurrentHashMap<>();

        Client(int number, int inFlight) {
            super(number, null, null);
            room = new Semaphore(inFlight);
        }

        void run(int bytes) {
            byte[] request = new byte[bytes];
            while (!ends) {
                room.acquireUninterruptibly();
                int id = generateRequestId(TOMMessageType.ORDERED_REQUEST);
                ByteBuffer.wrap(request).putInt(getProcessId()).putInt(id);
                waiting.put(id, new Waiting());
                TOMulticast(request.clone(), id, generateOperationId(), TOMMessageType.ORDERED_REQUEST);
            }
        }

        @Override
        public void replyReceived(TOMMessage reply) {
            Waiting request = waiting.get(reply.getSequence());
            if (request != null && request.hears(reply, getReplyQuorum()) && waiting.remove(reply.getSequence()) != null) {
                if (counts) {
                    nanoseconds.add(System.nanoTime() - request.begun);
                }
                room.release();
            }
        }
    }

    /** A request on its way, and who has answered what. */
    private static final class Waiting {
        final long begun = System.nanoTime();
        private final Map<Integer, byte[]> answers = new ConcurrentHashMap<>();

        boolean hears(TOMMessage reply, int quorum) {
            answers.put(reply.getSender(), reply.getContent());
            return answers.values().stream().filter(answer -> Arrays.equals(answer, reply.getContent())).count() >= quorum;
        }
    }
}
